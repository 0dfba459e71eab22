"The scripts that make what ships still work, on a run of seconds"
import json
import subprocess
import sys
from pathlib import Path
import torch
from marlearn.cli import main
from marlearn.engine.checkpoints import load_checkpoint

SCRIPTS = Path(__file__).resolve().parent.parent/'scripts'

def test_a_run_becomes_a_shipped_model(tmp_path, folder):
    "Half precision, a report, and the front page's two pictures"
    run, model, pictures = (tmp_path/name for name in ('run', 'model', 'pictures'))
    main(['train', '--preset', 'tiny', '--data', str(folder), '--out', str(run), '--train.steps', '4',
          '--train.sample-every', '0', '--train.log-every', '2'])
    arguments = [run, '--name', 'mar', '--out', model, '--pictures', pictures, '--rows', 1, 0]
    subprocess.run([sys.executable, SCRIPTS/'ship_model.py', *map(str, arguments)], check=True, capture_output=True)
    shipped, trained = load_checkpoint(model), load_checkpoint(run/'checkpoints'/'step-00000004')
    assert shipped.step == 4 and shipped.classes == trained.classes
    for a, b in zip(shipped.model.parameters(), trained.model.parameters(), strict=True):
        torch.testing.assert_close(a, b.half().to(a))
    report = json.loads((model/'report.json').read_text())
    assert report['steps'] == 4 and 0 < report['held_out_noise_error']['raw weights'] < 10
    assert sorted(f.name for f in pictures.iterdir()) == ['generation.gif', 'samples.png']
