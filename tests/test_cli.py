"The command line as a user meets it: the demo from end to end, and one clear message for every bad input"
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from importlib import import_module
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from marlearn import cli
from marlearn.engine import checkpoints, commands, drawing
from marlearn.cli import main
from marlearn.demo import demo, DemoConfig, plan_steps
from marlearn.engine.presets import tiny
from marlearn.engine.checkpoints import load_checkpoint
from marlearn.engine.run import read_log
from marlearn.tokenizers import load_tokenizer, PixelTokenizer
from tools import run

@pytest.fixture(scope='module')
def finished(tmp_path_factory, folder):
    "A tiny demo on an image folder"
    out = tmp_path_factory.mktemp('demo')
    mp = pytest.MonkeyPatch()
    mp.setenv('MARLEARN_CACHE', str(tmp_path_factory.getbasetemp()/'cache'))
    mp.setenv('MARLEARN_OFFLINE', '1')
    report = demo(DemoConfig(data=str(folder), out=out, steps=6, per_class=2, diff_steps=4, run=tiny()))
    mp.undo()
    return out, report

def files(folder): return {p.relative_to(folder): (p.stat().st_mtime_ns, p.stat().st_size)
                           for p in Path(folder).rglob('*') if p.is_file()}

def test_demo_writes_everything(finished):
    out, report = finished
    for name in ('samples.png', 'samples-raw.png', 'reconstructions.png', 'loss.png'):
        assert np.asarray(Image.open(out/name)).std() > 5, f'{name} is empty'
    with Image.open(out/'generation.gif') as gif:
        assert gif.n_frames == 16
    assert json.loads((out/'report.json').read_text()) == json.loads(json.dumps(report))
    assert report['data'] == {'name': out_name(report), 'pictures': 24, 'encoded': 24, 'classes': 2}
    assert report['last_loss'] > 0
    assert set(report['seconds']) == {'data', 'tokenizer', 'encode', 'train', 'draw', 'total'}
    assert read_log(out/'log.jsonl')[-1]['step'] == 6
    c = load_checkpoint(sorted(out.glob('checkpoints/step-*'))[-1])
    assert c.classes == ('blue things', 'red') and c.model.config.n_classes == 2 and c.step == 6

def test_second_demo_replaces_the_first(folder, tmp_path):
    for steps in (8, 4):
        demo(DemoConfig(data=str(folder), out=tmp_path, steps=steps, per_class=1, diff_steps=2, run=tiny()))
    assert [p.name for p in sorted(tmp_path.glob('checkpoints/*'))][-1] == 'step-00000004'
    assert read_log(tmp_path/'log.jsonl')[-1]['step'] == 4

def out_name(report): return Path(report['settings']['data']).name

def test_plan_fits_the_time():
    for seconds, n, encode, train in ((400, 50_000, 600, 100), (400, 1000, 600, 100), (400, 50_000, 3000, 400)):
        m, steps = plan_steps(seconds, n, encode, train, 64)
        assert m/encode + steps*64/train <= seconds*1.001 and m <= n
        assert m == n or steps*64 >= m - 64                        # nothing is encoded that is never seen

def test_sample_draws_classes_by_name_and_number(finished, tmp_path, capsys):
    out, _ = finished
    status, err = run(capsys, 'sample', '--checkpoint', out, '--out', tmp_path/'a.png', '--classes', 'red', '0',
                      '--per-class', 2, '--diff-steps', 3)
    assert status == 0 and (tmp_path/'a.png').exists()
    status, err = run(capsys, 'sample', '--checkpoint', out, '--out', tmp_path/'a.gif', '--diff-steps', 3,
                      '--per-class', 3)
    with Image.open(tmp_path/'a.gif') as film:
        assert status == 0 and film.n_frames == 16
        assert film.size == (2*(3*34 + 2), 2*(2*34 + 2))                # zoomed twice; two rows of three

@pytest.mark.parametrize('argv, n_tokens, expected', [((), 16, ('constant', 6.0)), ((), 256, ('linear', 4.0)),
                                                      (('--guidance', 'linear'), 16, ('linear', 4.0)),
                                                      (('--cfg-scale', '2'), 16, ('constant', 2.0))])
def test_guidance_follows_the_number_of_tokens(argv, n_tokens, expected, finished, tmp_path, capsys, monkeypatch):
    asked, load = {}, checkpoints.load_checkpoint
    def pretend(*args, **kw):
        c = load(*args, **kw)
        object.__setattr__(c.model, 'config', replace(c.model.config, n_tokens=n_tokens))
        return c
    def watch(*args, **kw):
        asked.update(kw)
        raise ValueError('seen')
    monkeypatch.setattr(checkpoints, 'load_checkpoint', pretend)
    monkeypatch.setattr(drawing, 'draw_grid', watch)
    run(capsys, 'sample', '--checkpoint', finished[0], '--out', tmp_path/'a.png', *argv)
    assert (asked['guidance'], asked['cfg_scale']) == expected

def test_reconstruct_and_info(folder, tmp_path, capsys):
    status, _ = run(capsys, 'reconstruct', '--data', folder, '--out', tmp_path/'r.png', '--n', 10)
    assert status == 0 and (tmp_path/'r.png').exists()
    main(['info'])
    shown = capsys.readouterr().out
    for word in ('torch', 'precision', 'device', 'data', 'presets'):
        assert word in shown

def test_training_in_a_thread(folder, tmp_path):
    "As a notebook server may do it: no signal can be handled there"
    argv = ['train', '--preset', 'tiny', '--data', str(folder), '--out', str(tmp_path/'run'), '--train.steps', '2']
    ended = []
    def train():
        try: main(argv)
        except SystemExit as e: ended.append(e.code)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not ended and read_log(tmp_path/'run'/'log.jsonl')[-1]['step'] == 2

def test_train_then_resume(folder, tmp_path, capsys):
    base = ['train', '--preset', 'tiny', '--data', folder, '--out', tmp_path/'run', '--train.batch-size', 8,
            '--train.log-every', 2]
    assert run(capsys, *base, '--train.steps', 4, '--train.save-every', 2)[0] == 0
    status, err = run(capsys, *base, '--train.steps', 4)
    assert status == 2 and '--resume' in err                      # never overwrites a run
    status, err = run(capsys, *base, '--train.steps', 6, '--resume')
    assert status == 0, err
    assert [r['step'] for r in read_log(tmp_path/'run'/'log.jsonl')] == [2, 4, 6]

def test_a_run_keeps_its_tokenizer_when_another_ships(folder, tmp_path, capsys, monkeypatch):
    base = ['train', '--preset', 'tiny', '--data', folder, '--out', tmp_path/'run', '--train.batch-size', 8]
    assert run(capsys, *base, '--train.steps', 2)[0] == 0
    monkeypatch.setattr('marlearn.engine.tokenizers.get_tokenizer', lambda name: PixelTokenizer(patch=8))
    status, err = run(capsys, *base, '--train.steps', 4, '--resume')
    assert status == 0, err
    assert load_tokenizer(tmp_path/'run'/'checkpoints'/'step-00000004'/'tokenizer').kind == 'kl'
    status, err = run(capsys, *base, '--train.steps', 6, '--resume', '--tokenizer', 'pixels')  # asked for: refused
    assert status == 2 and 'another run' in err, err

@pytest.mark.parametrize('preset', ['cifar10-tiny', 'cifar10-pixels', 'cifar10-codes'])
def test_presets_of_every_kind_train_and_draw(preset, folder, tmp_path, capsys):
    status, err = run(capsys, 'train', '--preset', preset, '--data', folder, '--out', tmp_path/'run', '--train.steps',
                      2, '--train.batch-size', 4, '--train.sample-every', 0)
    assert status == 0, err
    status, err = run(capsys, 'sample', '--checkpoint', tmp_path/'run', '--per-class', 1, '--ar-steps', 2,
                      '--diff-steps', 2, '--out', tmp_path/'s.png')
    assert status == 0 and (tmp_path/'s.png').exists(), err

def test_tokenizers_that_have_to_be_made_first_are_explained(tmp_path, capsys):
    for preset, word in (('table2-kl8', 'train-tokenizer --preset kl8'),
                         ('table1-mar-cross-entropy', 'train-tokenizer --preset vq16'),
                         ('table2-vq16-continuous', 'train-tokenizer --preset vq16'),
                         ('mar-l-imagenet256', 'official weights')):
        status, err = run(capsys, 'train', '--preset', preset, '--data', 'shapes', '--out', tmp_path/'run')
        assert status == 2 and word in err, err

def test_progress_shows_what_passed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('MARLEARN_PROGRESS', str(tmp_path/'progress.json'))
    def shown(*argv):
        main(['progress', *argv])
        return capsys.readouterr().out
    before = shown('--lesson', '15')
    from marlearn.course.checks.cifar import check_steps_for
    assert check_steps_for(lambda epochs, n, B: int(-(-epochs*n//B))).passed
    after = shown('--lesson', '15')
    assert '0 of 4 passed' in before and '1 of 4 passed' in after
    assert '10.1' in shown() and '10.1' not in after

@pytest.mark.parametrize('name, more', [('small-kl', ()), ('small-vq', ('--codes', 16))])
def test_train_a_tokenizer_then_use_it(name, more, folder, tmp_path, capsys):
    "train-tokenizer on an image folder, measure-tokenizer, and a model on top of it"
    base = ['train-tokenizer', '--preset', name, '--data', folder, '--out', tmp_path/'t', '--steps', 3, '--batch-size',
            4, *more]
    status, err = run(capsys, *base)
    assert status == 0, err
    report = json.loads((tmp_path/'t'/'report.json').read_text())
    assert report['scale'] > 0 and report['psnr'] > 0 and 'pictures' in report['reference']
    assert (tmp_path/'t'/'reconstructions.png').exists()
    assert ('codebook' in report) == (name == 'small-vq')
    status, err = run(capsys, *base)
    assert status == 2 and 'already holds a tokenizer' in err
    status, err = run(capsys, 'measure-tokenizer', '--tokenizer', tmp_path/'t', '--data', folder, '--n', 20, '--out',
                      tmp_path/'m.json')
    assert status == 0 and json.loads((tmp_path/'m.json').read_text())['n'] == 20, err
    head = 'cross-entropy' if name == 'small-vq' else 'flow'
    status, err = run(capsys, 'train', '--preset', 'tiny', '--data', folder, '--tokenizer', tmp_path/'t', '--variant',
                      'random-causal', '--model.head.kind', head, '--out', tmp_path/'run',
                      '--train.steps', 2, '--train.batch-size', 4, '--train.sample-every', 0)
    assert status == 0, err
    status, err = run(capsys, 'sample', '--checkpoint', tmp_path/'run', '--per-class', 1, '--diff-steps', 2, '--out',
                      tmp_path/'s.png')
    assert status == 0 and (tmp_path/'s.png').exists(), err

def test_what_train_proposes_can_be_run(folder, tmp_path, capsys):
    run_ = tmp_path/'a run'
    main([str(a) for a in ('train', '--preset', 'tiny', '--data', folder, '--out', run_, '--train.steps', 2,
                           '--train.batch-size', 4, '--train.sample-every', 0)])
    said = capsys.readouterr().out
    lines = [line.split('with: marlearn ')[1] for line in said.splitlines() if 'with: marlearn ' in line]
    sample, measure = (shlex.split(line) for line in lines)
    assert sample[0] == 'sample' and measure[0] == 'evaluate' and measure[measure.index('--data') + 1] == str(folder)
    quick = ['--diff-steps', 2, '--ar-steps', 2]
    assert run(capsys, *sample, *quick, '--per-class', 1, '--out', tmp_path/'s.png')[0] == 0
    assert cli.parse('evaluate', measure[1:]).n == 1000
    assert run(capsys, *measure, *quick, '--num-images', 4, '--seeds', 1)[0] == 0
    assert json.loads((run_/'evaluation.json').read_text())['n'] == 4

def test_evaluate_names_its_reference_and_seeds(finished, folder, tmp_path, capsys):
    out, _ = finished
    status, err = run(capsys, 'evaluate', '--checkpoint', out, '--data', folder, '--n', 8, '--seeds', 2,
                      '--diff-steps', 2, '--out', tmp_path/'e.json')
    result = json.loads((tmp_path/'e.json').read_text())
    assert status == 0, err
    assert result['seeds'] == [0, 1] and len(result['per seed']) == 2 and '24 pictures' in result['reference']
    assert any(k.startswith('frechet distance, cifar10-classifier') for k in result['mean'])
    assert not any('FID' in k for k in result['mean'])

def test_evaluate_says_where_the_reference_has_other_classes(finished, folder, tmp_path, capsys):
    for i in range(12):                                                        # 3 classes, the model has 2
        (tmp_path/'r'/'abc'[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 20*i, np.uint8)).save(tmp_path/'r'/'abc'[i % 3]/f'{i}.png')
    args = ['--checkpoint', finished[0], '--n', 4, '--seeds', 1, '--diff-steps', 2, '--ar-steps', 2, '--out',
            tmp_path/'e.json']
    for data, said in ((tmp_path/'r', True), (folder, False)):
        status, err = run(capsys, 'evaluate', '--data', data, *args)
        assert status == (2 if said else 0) and ('--any-reference' in err) == said, err
        status, err = run(capsys, 'evaluate', '--data', data, '--any-reference', *args)
        assert status == 0 and ('draws 2 classes equally often' in err and 'has 3:' in err) == said, err

def test_evaluate_takes_the_training_pictures_and_says_how_to_repeat_itself(finished, folder, tmp_path, capsys):
    out = tmp_path/'my run.json'
    args = ['--checkpoint', finished[0], '--num-images', 8, '--seeds', 1, '--diff-steps', 2, 3, '--ar-steps', 2,
            '--compile', False, '--raw', '--out', out]
    assert run(capsys, 'evaluate', *args)[0] == 0
    first = json.loads(out.read_text())
    assert first['reference'] == f'{folder.name}, 24 pictures'
    words = shlex.split(first['command'])
    assert words[:2] == ['marlearn', 'evaluate'] and words[words.index('--data') + 1] == str(folder)
    asked = cli.parse('evaluate', [str(a) for a in args])
    assert cli.parse('evaluate', words[2:]) == replace(asked, data=str(folder))
    assert run(capsys, *words[1:])[0] == 0
    again = json.loads(out.read_text())
    assert again['per seed'] == first['per seed'] and again['command'] == first['command']
    assert again["the reference's features"] == 'from the cache'

def test_command_lines_of_several_processes_can_be_read():
    line = commands.command_line(commands.Evaluate(n=50, data='a b', compile=True, any_reference=True), 'evaluate', 3)
    start, words = line.split('marlearn evaluate ')
    assert start == 'torchrun --nproc_per_node=3 -m '
    asked = cli.parse('evaluate', shlex.split(words))
    assert (asked.n, asked.data, asked.compile, asked.any_reference) == (50, 'a b', True, True)

def pictures_of(side, folder, classes='ab', n=12):
    for i in range(n):
        (folder/classes[i % len(classes)]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (side, side + 9, 3), np.uint8)
        Image.fromarray(pixels).save(folder/classes[i % len(classes)]/f'{i}.png')
    return folder

def test_evaluate_refuses_pictures_that_had_to_be_enlarged(finished, tmp_path, capsys):
    args = ['evaluate', '--checkpoint', finished[0], '--n', 4, '--seeds', 1, '--diff-steps', 2, '--ar-steps', 2,
            '--out', tmp_path/'e.json']
    small = pictures_of(31, tmp_path/'small')
    with tarfile.open(tmp_path/'small.tar', 'w') as tar: tar.add(small, 'small')
    for data in (small, tmp_path/'small.tar'):
        status, err = run(capsys, *args, '--data', data)
        assert status == 2 and '31 pixels wide, the model draws 32' in err and '--any-reference' in err, err
        assert run(capsys, *args, '--data', data, '--any-reference')[0] == 0
    assert run(capsys, *args, '--data', pictures_of(32, tmp_path/'enough'))[0] == 0
    assert run(capsys, *args, '--data', pictures_of(99, tmp_path/'large'))[0] == 0

def test_evaluate_refuses_statistics_of_another_size(finished, tmp_path, capsys):
    args = ['evaluate', '--checkpoint', finished[0], '--n', 4, '--data', tmp_path/'adm.npz', '--out', tmp_path/'e.json']
    np.savez(tmp_path/'adm.npz', mu=np.zeros(128), sigma=np.eye(128), arr_0=np.zeros((4, 256, 256, 3), np.uint8))
    status, err = run(capsys, *args)
    assert status == 2 and 'about pictures of 256x256, the model draws 32x32' in err, err

def test_evaluate_of_a_run_on_latents_asks_for_pictures(finished, tmp_path, capsys, monkeypatch):
    load = checkpoints.load_checkpoint
    (tmp_path/'latents').mkdir()
    (tmp_path/'latents'/'plan.json').write_text('{}')
    def on_latents(*a, **k):
        c = load(*a, **k)
        return replace(c, settings=c.settings | {'run': c.settings['run'] | {'data': str(tmp_path/'latents')}})
    monkeypatch.setattr(checkpoints, 'load_checkpoint', on_latents)
    status, err = run(capsys, 'evaluate', '--checkpoint', finished[0], '--n', 4, '--out', tmp_path/'e.json')
    assert status == 2 and 'holds latents: name pictures' in err and '--data' in err, err

def test_evaluate_with_statistics_as_ADM_keeps_them(finished, folder, tmp_path, capsys):
    from marlearn.engine.evaluation import cifar10_classifier, extract
    from marlearn.metrics import Statistics
    from marlearn.engine.pictures import load_data
    data = load_data(str(folder), 'train', 32)
    s = Statistics().update(extract(cifar10_classifier(), data, quiet=True)['features'])
    images = data.images.transpose(0, 2, 3, 1)
    np.savez(tmp_path/'adm.npz', mu=s.mean, sigma=s.cov, mu_s=np.zeros(3), arr_0=images)
    np.savez(tmp_path/'bare.npz', mu=s.mean, sigma=s.cov)
    args = ['evaluate', '--checkpoint', finished[0], '--num-images', 8, '--seeds', 1, '--diff-steps', 2]
    results = {}
    for name, data in (('adm', tmp_path/'adm.npz'), ('bare', tmp_path/'bare.npz'), ('pictures', folder)):
        status, err = run(capsys, *args, '--data', data, '--out', tmp_path/f'{name}.json')
        assert status == 0, err
        results[name] = json.loads((tmp_path/f'{name}.json').read_text())
    key = next(k for k in results['bare']['mean'] if k.startswith('frechet'))
    assert results['adm']['reference'] == 'adm.npz, an unknown number of pictures'
    assert 'reference split' not in results['adm']
    distance = {name: result['mean'][key] for name, result in results.items()}
    assert abs(distance['adm'] - distance['pictures']) < 1e-3*distance['pictures']
    assert distance['adm'] == distance['bare']
    assert results['adm']['mean'].keys() == results['pictures']['mean'].keys()
    assert not any('precision' in k for k in results['bare']['mean'])
    np.savez(tmp_path/'odd.npz', mu=s.mean, sigma=s.cov, arr_0=np.zeros((4, 3)))
    status, err = run(capsys, *args, '--data', tmp_path/'odd.npz', '--out', tmp_path/'odd.json')
    assert status == 2 and 'must be pictures' in err

def test_sample_to_a_folder(finished, tmp_path, capsys):
    out, _ = finished
    args = ['sample', '--checkpoint', out, '--per-class', 3, '--diff-steps', 2, '--batch-size', 4, '--out',
            tmp_path/'cfg1.5']
    status, err = run(capsys, *args)
    names = sorted(str(f.relative_to(tmp_path/'cfg1.5')) for f in (tmp_path/'cfg1.5').rglob('*.png'))
    assert status == 0 and len(names) == 6 and len({n.split('/')[0] for n in names}) == 2, err
    # folders begun before there was such an option go on
    assert 'compile' not in json.loads((tmp_path/'cfg1.5'/'pictures.json').read_text())['settings']
    before = files(tmp_path/'cfg1.5')
    assert run(capsys, *args)[0] == 0 and files(tmp_path/'cfg1.5') == before
    status, err = run(capsys, *args, '--seed', 1)
    assert status == 2 and 'seed was 0, is 1' in err

BAD = {
    'unknown variant': (['train', '--preset', 'tiny', '--data', '{data}', '--variant', 'spiral', '--out', '{tmp}/v'],
                        "no variant is called 'spiral'"),
    'codebook head, continuous tokens': (['train', '--preset', 'tiny', '--data', '{data}', '--model.head.kind',
                                          'cross-entropy', '--out', '{tmp}/v'], 'needs a tokenizer with a codebook'),
    'unknown tokenizer preset': (['train-tokenizer', '--preset', 'giant'], "no tokenizer preset is called 'giant'"),
    'tokenizer for another size': (['train-tokenizer', '--data', '{data}', '--img-size', '30', '--out', '{tmp}/t'],
                                   'not a multiple'),
    'missing inception weights': (['evaluate', '--checkpoint', '{run}', '--data', '{data}', '--features', 'inception',
                                   '--weights', '{tmp}/none.pth', '--out', '{tmp}/e.json'], 'none.pth is missing'),
    'missing statistics': (['evaluate', '--checkpoint', '{run}', '--data', '{tmp}/adm.npz', '--out', '{tmp}/e.json'],
                           'VIRTUAL_imagenet256_labeled.npz'),
    'order that is none': (['sample', '--checkpoint', '{run}', '--order', 'spiral', '--out', '{tmp}/x.png'],
                           "no order 'spiral'"),
    'file that is not written': (['sample', '--checkpoint', '{run}', '--out', '{tmp}/x.jpg'], 'no .jpg is written'),
    'missing folder': (['demo', '--data', '{tmp}/nowhere'], 'there is no'),
    'no pictures': (['demo', '--data', '{tmp}/empty'], 'holds no pictures'),
    'not a tar': (['reconstruct', '--data', '{tmp}/text.tar.gz'], 'neither a folder nor a tar'),
    'unknown preset': (['train', '--preset', 'enormous'], "no preset is called 'enormous'"),
    'unknown class': (['sample', '--checkpoint', '{run}', '--classes', 'unicorn'], "no class 'unicorn'"),
    'class out of range': (['sample', '--checkpoint', '{run}', '--classes', '2'], "no class '2'"),
    'too many steps': (['sample', '--checkpoint', '{run}', '--ar-steps', '17', '--out', '{tmp}/x.png'], 'ar_steps=17'),
    'no checkpoint': (['sample', '--checkpoint', '{tmp}/empty'], 'is no checkpoint'),
    'truncated checkpoint': (['sample', '--checkpoint', '{cut}'], 'damaged: ema.safetensors'),
    'unwritable output': (['sample', '--checkpoint', '{run}', '--out', '{tmp}/text.tar.gz/x.png'], 'cannot write to'),
    'unwritable run': (['demo', '--data', '{data}', '--out', '{tmp}/text.tar.gz/run'], 'cannot write to'),
    'wrong picture size': (['reconstruct', '--data', '{data}', '--img-size', '30'], 'not a multiple'),
    'nothing to resume': (['train', '--preset', 'tiny', '--data', '{data}', '--out', '{tmp}/new', '--resume'],
                          'no intact checkpoint'),
}

@pytest.mark.parametrize('case', BAD)
def test_bad_input_gets_one_message_and_harms_nothing(case, finished, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = finished
    (tmp_path/'empty').mkdir()
    (tmp_path/'text.tar.gz').write_text('not a tar')
    step = sorted(out.glob('checkpoints/step-*'))[-1]
    cut = tmp_path/'cut'
    shutil.copytree(step, cut)
    (cut/'ema.safetensors').write_bytes((step/'ema.safetensors').read_bytes()[:1000])
    before = files(out)
    argv, message = BAD[case]
    status, err = run(capsys, *(a.format(tmp=tmp_path, run=out, cut=cut, data=folder) for a in argv))
    lines = [l for l in err.splitlines() if 'marlearn: error' in l]
    assert status == 2 and len(lines) == 1 and message in lines[0], err
    assert 'Traceback' not in err and files(out) == before

def test_impossible_width_is_refused_before_anything_runs(capsys):
    status, err = run(capsys, 'train', '--model.width', 30, '--model.heads', 4)
    assert status == 2 and 'width=30 is not a multiple of heads=4' in ' '.join(err.split()) and 'Traceback' not in err

def test_broken_picture_is_named_and_skipped(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path/'p')
    (tmp_path/'p'/'red'/'99.png').write_bytes(b'\x89PNG broken')
    status, err = run(capsys, 'reconstruct', '--data', tmp_path/'p', '--out', tmp_path/'r.png')
    assert status == 0 and 'skipped 1 of 25' in err and '99.png' in err

def test_no_data_anywhere_falls_back_to_shapes_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('MARLEARN_DATA', raising=False)
    from marlearn.engine import pictures
    monkeypatch.setattr(pictures, '__file__', str(tmp_path/'marlearn'/'engine'/'pictures.py'))
    loaded = pictures.load_data(None, 'test')
    shown = capsys.readouterr().err
    assert loaded.name == 'shapes'
    for way in ('--data', 'MARLEARN_DATA', 'data/cifar10.tar.gz'):
        assert way in shown

WITH_PARTS = {'import mar': 'ImportMar', 'import vae': 'ImportVae', 'export mar': 'ExportMar',
              'export vae': 'ExportVae'}
WITHOUT_OPTIONS = 'info', 'import', 'export' # of their own

@pytest.mark.parametrize('command', [*(name for name in cli.COMMANDS if name not in WITHOUT_OPTIONS), *WITH_PARTS])
def test_help_describes_every_option(command, capsys):
    from dataclasses import fields
    from fastcore.docments import docments
    module, name, _ = cli.COMMANDS[command.split()[0]]
    cls = getattr(import_module(f'marlearn.{module}'), WITH_PARTS.get(command, name))
    with pytest.raises(SystemExit) as end:
        main([*command.split(), '--help'])
    assert end.value.code == 0
    said, own = ' '.join(capsys.readouterr().out.replace('│', ' ').split()), docments(cls)
    for base in cls.__mro__[1:-1]:
        own |= {name: text for name, text in docments(base).items() if text and not own.get(name)}
    for f in fields(cls):
        # groups of options, described by their class
        if f.name in ('model', 'train', 'run', 'net'): continue
        is_named = command in WITH_PARTS and f is fields(cls)[0] or '--' + f.name.replace('_', '-') in said
        assert is_named and own.get(f.name), f.name # what a command brings in or writes stands without a name
        assert ' '.join(own[f.name].split())[:25] in said, f.name

def seconds(*arguments):
    "Of a process's own work, whatever else the machine does meanwhile; the better of three"
    def spent(): return os.times().children_user + os.times().children_system
    def once():
        start = spent()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return spent() - start
    return min(once() for _ in range(3))

HELP = """
import sys
import marlearn.cli
try: marlearn.cli.main(['--help'])
except SystemExit: print('torch' in sys.modules)
"""

def test_help_answers_without_loading_torch():
    said = subprocess.run([sys.executable, '-c', HELP], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == 'False'
    for name in cli.COMMANDS: assert f'  {name} ' in said
    assert seconds('-m', 'marlearn', '--help') < seconds('-c', 'import torch')

@pytest.mark.parametrize('command', ['train', 'sample'])
def test_a_commands_help_takes_little_more_than_torch(command):
    "1.3 times is promised (benchmarks.startup); twice would be another kind of import"
    assert seconds('-m', 'marlearn', command, '--help') < 2*seconds('-c', 'import torch')

@pytest.mark.parametrize('option', ['--help', '--version'])
def test_output_that_nobody_reads_is_no_error(option):
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    process = subprocess.Popen([sys.executable, '-m', 'marlearn', option], **pipes)
    process.stdout.close() # as `| true` does
    assert b'Traceback' not in process.stderr.read() and process.wait() in (0, 141)
