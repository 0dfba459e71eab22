"The scripts that make what ships still work, on a run of seconds"
import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
import pytest
import torch
from marlearn.cli import main
from marlearn.data import load_shapes
from marlearn.engine.checkpoints import load_checkpoint
from marlearn.tokenizers import load_tokenizer

SCRIPTS = Path(__file__).resolve().parent.parent/'scripts'

def test_a_run_becomes_a_shipped_model(tmp_path, folder):
    "Half precision, a report, and the front page's two pictures"
    run, model, pictures = (tmp_path/name for name in ('run', 'model', 'pictures'))
    main(['train', '--preset', 'tiny', '--data', str(folder), '--out', str(run), '--train.steps', '4',
          '--train.sample-every', '0', '--train.log-every', '2'])
    arguments = [run, '--name', 'mar', '--out', model, '--pictures', pictures, '--rows', 1, 0, '--n', 8]
    subprocess.run([sys.executable, SCRIPTS/'ship_model.py', *map(str, arguments)], check=True, capture_output=True)
    shipped, trained = load_checkpoint(model), load_checkpoint(run/'checkpoints'/'step-00000004')
    assert shipped.step == 4 and shipped.classes == trained.classes
    for a, b in zip(shipped.model.parameters(), trained.model.parameters(), strict=True):
        torch.testing.assert_close(a, b.half().to(a))
    report = json.loads((model/'report.json').read_text())
    assert report['steps'] == 4 and 0 < report['held_out_noise_error']['raw weights'] < 10
    assert sorted(f.name for f in pictures.iterdir()) == ['generation.gif', 'samples.png']
    assert (run/'nearest.png').exists()
    judged = report['evaluation']
    per_class = [judged[f'recognised, {name}'] for name in shipped.classes]
    assert len(per_class) == 2 and judged['recognised'] == pytest.approx(sum(per_class)/2)
    assert judged['distance'] > 0 and judged['standard deviation over seeds']['distance'] > 0

def test_a_tokenizer_is_trained_judged_and_shipped(tmp_path, monkeypatch):
    "In seconds, on shapes; a second call goes on where the first has stopped"
    spec = importlib.util.spec_from_file_location('ship_tokenizer', SCRIPTS/'ship_tokenizer.py')
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, 'load_data', lambda name, split='train': load_shapes(split, n=200))
    monkeypatch.setattr(script, 'load_shapes', lambda split='train', n=200: load_shapes(split, n=200))
    for name in script.NETWORKS: assert 0 <= script.train_network(name, tmp_path, 0.01)['test accuracy'] <= 1
    script.ship(tmp_path, 0.02, tmp_path/'first', n=200)
    script.ship(tmp_path, 0.02, tmp_path/'second', n=200)                  # nothing is left to do: the same weights
    first, second = (json.loads((tmp_path/name/'report.json').read_text()) for name in ('first', 'second'))
    assert first == second and first['steps'] > 0 and first['tokens'] == 16
    assert first['numbers per token'] == 4*script.CANDIDATES[script.CHOSEN].channels
    before = {name: w.clone() for name, w in load_tokenizer(tmp_path/'first').state_dict().items()}
    script.ship(tmp_path, 0.02, tmp_path/'third', n=200)
    for name, w in load_tokenizer(tmp_path/'third').state_dict().items(): assert torch.equal(w, before[name])
    for folder in ('first', 'second'): assert load_tokenizer(tmp_path/folder).kind == 'kl'
    script.compare(['6 channels, L1'], tmp_path, 0.01, tmp_path/'compared.json')
    script.compare(['6 channels, L1', '10 channels, adversarial'], tmp_path, 0.01, tmp_path/'compared.json')
    rows = json.loads((tmp_path/'compared.json').read_text())['rows']
    assert [row['candidate'] for row in rows] == ['6 channels, L1', '10 channels, adversarial']
    assert all(0 < row['distance of copies'] and 0 < row['psnr'] < 40 for row in rows)

def test_each_shipped_model_has_a_card_of_its_report():
    done = subprocess.run([sys.executable, SCRIPTS/'cards.py', '--check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + 'run scripts/cards.py'
    cards = {path.parent.name for path in (SCRIPTS.parent/'data'/'pretrained').glob('*/README.md')}
    assert cards == {path.parent.name for path in (SCRIPTS.parent/'data'/'pretrained').glob('*/report.json')}

@pytest.mark.parametrize('name', ['cards', 'colab', 'lesson_times', 'readme'])
def test_scripts_that_write_refuse_what_they_do_not_know(name):
    "Until now `--help` and a mistyped --check wrote the files"
    done = subprocess.run([sys.executable, SCRIPTS/f'{name}.py', '--chek'], capture_output=True, text=True)
    assert done.returncode == 2 and 'unrecognized arguments: --chek' in done.stderr

def test_recipes_are_compared(tmp_path):
    "For a fraction of a second each; tokens are kept, and the best stands first"
    spec = importlib.util.spec_from_file_location('recipe', SCRIPTS/'recipe.py')
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    shapes, script.cost = load_shapes(n=100), functools.partial(script.cost, repeats=1, steps=1)
    rows = [script.run(name, 0, 3, 20, shapes, tmp_path) for name in ('64 tokens of 10', 'flow head')]
    assert all(row['steps'] > 0 and row['parameters'] > 1e6 for row in rows)
    assert all(row['distance'] > 0 and 0 <= row['recognised'] <= 1 for row in rows)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['tokens-1.safetensors', 'tokens-2.safetensors']
    better, worse = ({**rows[0], 'candidate': name, 'distance': d} for name, d in (('better', 1.), ('worse', 2.)))
    page = script.page([worse, better, {**worse, 'seed': 1, 'distance': 4.}])
    assert page.splitlines()[1].startswith('better') and '3.0 +-   1.0' in page.splitlines()[2]

def test_cells_of_lessons_are_found_and_recorded_results_belong_to_them(monkeypatch):
    "The scripts that run lessons elsewhere get code that compiles, and none that reads what they are to write"
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from cells import code_cells
    found = {name: list(code_cells(name)) for name in ('01_data', '05_tokenizers', '15_cifar', '17_beyond_images')}
    for name, sources in found.items():
        for source in sources: compile(source, name, 'exec')
        assert len(sources) > 10 and 'recorded' not in ''.join(sources)
    recorded = json.loads((SCRIPTS.parent/'benchmarks'/'results'/'on_cifar.json').read_text())
    assert all(line.startswith('cifar10') for name in ('01_data', '05_tokenizers') for line in recorded[name])
    assert recorded['15_cifar']['rows'] == list(recorded['15_cifar']['held-out loss'])

def test_demos_are_compared_by_a_readout_that_can_fail(monkeypatch):
    "Features that tell the classes apart are read, and noise is not; a folder without a demo is refused"
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location('demos', SCRIPTS/'demos.py')
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    g = torch.Generator().manual_seed(0)
    labels, centres = torch.arange(600) % 3, 3*torch.randn(3, 8, generator=g)
    features = centres[labels] + torch.randn(600, 8, generator=g)
    fit, new = slice(0, 300), slice(300, 600)
    readout = script.linear_readout(features[fit], labels[fit], 3)
    assert script.share_right(readout, features[new], labels[new]) > .95
    noise = torch.randn(600, 8, generator=g)
    assert .2 < script.share_right(script.linear_readout(noise[fit], labels[fit], 3), noise[new], labels[new]) < .5
    done = subprocess.run([sys.executable, SCRIPTS/'demos.py', SCRIPTS], capture_output=True, text=True)
    assert done.returncode and 'holds no marlearn/demo.py' in done.stderr
