"scripts/paper.py: cells that can be stopped, resumed and repeated, in a file that never mixes what cannot be compared"
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT/'scripts'/'paper.py'
TINY = ['--data', 'shapes', '--pictures', '40', '--steps', '2', '--batch-size', '4', '--drawn', '20', '--real', '50',
        '--tokenizer-steps', '1']

@pytest.fixture(scope='module')
def loaded():
    spec = importlib.util.spec_from_file_location('paper_script', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules['paper_script'] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules['paper_script']

@pytest.fixture
def script(loaded, monkeypatch):
    "The module; workers run in this process, and `script.ran` lists what they did"
    import torch
    threads = torch.get_num_threads()
    ran = []
    def here(group, arguments, received):
        settings = loaded.parse(arguments)[1]
        work = loaded.parse(arguments)[0].work
        for name, seed in group:
            ran.append((name, seed))
            received(loaded.run_cell(name, seed, settings, work))
    monkeypatch.setattr(loaded, 'in_another_process', here)
    monkeypatch.setattr(loaded, 'ran', ran, raising=False)
    yield loaded
    torch.set_num_threads(threads)

def run(script, folder, *more, tiny=TINY):
    script.main([*tiny, '--work', str(folder/'work'), '--out', str(folder/'paper.json'), *more])
    return json.loads((folder/'paper.json').read_text())

def without_times(cell):
    verdicts = {k: {m: v for m, v in cell[k].items() if m != 'seconds_per_picture'} for k in ('unguided', 'guided')}
    return {k: v for k, v in cell.items() if 'seconds' not in k} | verdicts

def test_a_second_run_does_only_what_is_missing(script, tmp_path):
    first = run(script, tmp_path, '--only', 'table1/mar-diffusion', '--seed', '0')
    assert script.ran == [('table1/mar-diffusion', 0)]
    again = run(script, tmp_path, '--only', 'table1/mar-diffusion', 'figure4/steps-3', '--seed', '0')
    assert script.ran == [('table1/mar-diffusion', 0), ('figure4/steps-3', 0)]
    assert again['cells'][0] == first['cells'][0] and len(again['cells']) == 2
    assert len(list((tmp_path/'work'/'models').glob('*/model.safetensors'))) == 1, 'the figure trained a model anew'

def test_what_was_measured_already_is_not_measured_again(script, tmp_path):
    "Table 2's middle row is Table 1's last one"
    found = run(script, tmp_path, '--only', 'table1/mar-diffusion', 'table2/kl-stride-4-diffusion', 'figure4/steps-25',
                '--seed', '0')['cells']
    assert script.ran == [('table1/mar-diffusion', 0)]
    assert [c.get('same_as') for c in found] == [None, 'table1/mar-diffusion', 'table1/mar-diffusion']
    assert found[1]['guided'] == found[0]['guided']

def test_a_seed_is_a_training_and_a_drawing(script, tmp_path):
    "Another seed gives other numbers, the same seed gives the same ones, and the file holds mean and spread"
    both = run(script, tmp_path/'a', '--only', 'table1/mar-diffusion', '--seed', '0', '3')
    a, b = both['cells']
    assert (a['seed'], b['seed']) == (0, 3) and a['guided']['frechet'] != b['guided']['frechet']
    assert a['last_loss'] != b['last_loss']
    again = run(script, tmp_path/'b', '--only', 'table1/mar-diffusion', '--seed', '3')
    assert without_times(again['cells'][0]) == without_times(b)
    mean, spread, seeds = both['mean, spread, seeds']['table1/mar-diffusion']['guided']['frechet']
    two = a['guided']['frechet'], b['guided']['frechet']
    assert seeds == 2 and mean == pytest.approx(sum(two)/2) and spread == pytest.approx(abs(two[0] - two[1])/2**.5)
    assert again['mean, spread, seeds']['table1/mar-diffusion']['guided']['frechet'][1] is None, 'spread of one seed'

def test_guidance_is_a_second_drawing_of_the_same_model(script, tmp_path):
    cell = run(script, tmp_path, '--only', 'table1/random-bidirectional-diffusion', '--seed', '0')['cells'][0]
    assert cell['ar_steps'] == 16 and cell['unguided']['frechet'] != cell['guided']['frechet']
    assert cell['training_seconds'] > 0 and cell['unguided']['seconds_per_picture'] > 0

def test_a_group_that_fails_keeps_what_it_had_finished(script, tmp_path, monkeypatch):
    whole = script.run_cell
    def fails(name, *rest):
        if name == 'figure4/steps-6': raise RuntimeError('stopped')
        return whole(name, *rest)
    monkeypatch.setattr(script, 'run_cell', fails)
    only = ['--only', 'figure4/steps-3', 'figure4/steps-6', '--seed', '0']
    with pytest.raises(RuntimeError, match='stopped'): run(script, tmp_path, *only)
    kept = json.loads((tmp_path/'paper.json').read_text())['cells']
    assert [c['cell'] for c in kept] == ['figure4/steps-3']
    monkeypatch.setattr(script, 'run_cell', whole)
    assert [c['cell'] for c in run(script, tmp_path, *only)['cells']] == ['figure4/steps-3', 'figure4/steps-6']
    assert script.ran[-1] == ('figure4/steps-6', 0)

def test_a_killed_cell_leaves_no_half_result(script, tmp_path):
    "SIGKILL in the middle of the training"
    endless = [*TINY, '--steps', '1000000']
    command = [sys.executable, SCRIPT, *endless, '--work', tmp_path/'work', '--out', tmp_path/'paper.json',
               '--worker', 'table1/mar-diffusion:0']
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not list((tmp_path/'work').glob('tokens/*.safetensors')) and time.monotonic() < until:
            assert process.poll() is None, 'ended by itself'
            time.sleep(.2)
        time.sleep(1)
        assert process.poll() is None
    finally:
        process.kill()
    assert process.communicate()[0] == '' and not (tmp_path/'paper.json').exists()
    assert not list((tmp_path/'work').glob('models/*'))
    done = run(script, tmp_path, '--only', 'table1/mar-diffusion', '--seed', '0')
    assert len(done['cells']) == 1

def test_a_real_worker_hands_its_cell_over(loaded, tmp_path):
    "The one way the tests above leave out: a process of its own"
    found = run(loaded, tmp_path, '--only', 'copies/kl-stride-4', '--jobs', '2')['cells']
    assert [c['cell'] for c in found] == ['copies/kl-stride-4'] and found[0]['psnr'] > 20

def test_results_that_cannot_be_compared_are_not_mixed(script, tmp_path):
    run(script, tmp_path, '--only', 'table1/mar-diffusion', '--seed', '0')
    with pytest.raises(SystemExit, match='other settings.*steps'):
        run(script, tmp_path, '--only', 'table1', '--seed', '0', tiny=[*TINY, '--steps', '3'])
    path = tmp_path/'paper.json'
    path.write_text(path.read_text().replace(json.loads(path.read_text())['cells'][0]['tokenizer_hash'], '0123456789'))
    with pytest.raises(SystemExit, match='another tokenizer kl-stride-4'):
        run(script, tmp_path, '--only', 'table1/mar-diffusion', '--seed', '1')
    assert len(script.ran) == 1
    renewed = run(script, tmp_path, '--only', 'table1/mar-diffusion', '--seed', '1', '--renew')['cells']
    assert [(c['cell'], c['seed']) for c in renewed] == [('table1/mar-diffusion', 1)], 'the stale cell stayed'

def test_minutes_and_list(script, tmp_path, capsys):
    "No time: nothing is begun; and the list says what is there"
    script.main([*TINY, '--work', str(tmp_path), '--out', str(tmp_path/'paper.json'), '--minutes', '-1'])
    assert script.ran == [] and not (tmp_path/'paper.json').exists()
    run(script, tmp_path, '--only', 'figure4/steps-3', '--seed', '1')
    capsys.readouterr()
    script.main([*TINY, '--work', str(tmp_path), '--out', str(tmp_path/'paper.json'), '--list', '--only', 'figure4'])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and 'seeds 1 finished' in lines[0] and 'nothing yet' in lines[1]
    with pytest.raises(SystemExit): script.main(['--only', 'table9'])

def test_pictures_come_in_sheets(script, tmp_path):
    "A row a cell, ten pictures without guidance and ten with it"
    from PIL import Image
    run(script, tmp_path, '--only', 'figure6/at-once-1', '--seed', '0')
    sheets = run(script, tmp_path, '--only', 'figure6', '--seed', '1')['sheets']
    rows = [name for name in script.CELLS if name.startswith('figure6')]
    assert sheets == {'figure6': {'seed': 1, 'rows': rows}}
    assert Image.open(tmp_path/'paper_figure6.jpg').size == (20*32 + script.GAP, 32*len(rows))
    assert not (tmp_path/'paper_figure4.jpg').exists()

def test_every_comparison_of_the_paper_has_its_cells(loaded):
    tables = {name.split('/')[0] for name in loaded.CELLS}
    assert tables == {'copies', 'table1', 'table2', 'table3', 'figure4', 'figure5', 'figure6'}
    assert sum(name.startswith('table1/') for name in loaded.CELLS) == 8
    trainings = {c.training for name, c in loaded.CELLS.items() if not name.startswith('copies')}
    assert len(trainings) == 13

def test_the_committed_file_is_one_the_script_would_write(loaded):
    found = json.loads((ROOT/'benchmarks'/'results'/'paper.json').read_text())
    assert found['settings'] == loaded.asdict(loaded.Settings())
    assert {c['cell'] for c in found['cells']} <= loaded.CELLS.keys()
    assert found['mean, spread, seeds'] == loaded.spread_of(found['cells'])
    for table, sheet in found['sheets'].items():
        assert (ROOT/'benchmarks'/'results'/f'paper_{table}.jpg').exists()
        assert {(name, sheet['seed']) for name in sheet['rows']} <= {(c['cell'], c['seed']) for c in found['cells']}
    for tokenizer in loaded.TOKENIZERS:
        assert len({c['tokenizer_hash'] for c in found['cells'] if c['tokenizer'] == tokenizer}) <= 1

def test_the_lesson_draws_from_the_file(loaded):
    "Its numbers and pictures come from the result files, for every table and figure"
    cells = json.loads((ROOT/'nbs'/'16_paper.ipynb').read_text(encoding='utf-8'))['cells']
    code = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code')
    assert "benchmarks/results/paper.json" in code
    for table in dict.fromkeys(name.split('/')[0] for name in loaded.CELLS):
        assert f'{table}/' in code or f"'{table}'" in code, table
