"""Write a card, README.md, beside each model in data/pretrained, from its report (with --check: only compare).

    python scripts/cards.py"""
import json, sys
from pathlib import Path
from settings import read_flags, read_settings, ROOT

FOLDER = ROOT/'data'/'pretrained'
PICTURES = {'cifar10': 'CIFAR-10 (Krizhevsky 2009), 50,000 training pictures of 32x32 and their mirror images',
            'shapes': 'the course\'s own drawn shapes (`marlearn.data.load_shapes`), which need no download'}
WHAT = { # folder -> title, what it is for, what it cannot do
    'mar': ('MAR for CIFAR-10', 'a masked autoregressive model with the diffusion loss that draws ten classes: what '
            '`marlearn sample` and lessons 00, 12, 14 and 15 use',
            'Pictures of 32x32 pixels of ten classes only. Animals are drawn worse than vehicles. It was trained for '
            'a course, on one small machine: do not judge the method by it.'),
    'shapes': ('MAR for shapes', 'the same kind of model for ten drawn shapes, for those who have no CIFAR-10',
               'It knows the drawn shapes of the course and nothing else.'),
    'tokenizer': ('KL tokenizer', 'a small KL autoencoder of 32x32 pictures (lesson 03) and the tokenizer of the '
                  'presets and of `marlearn demo`',
                  'Made for CIFAR-10 and the drawn shapes. Other pictures, text and sharp patterns of single pixels '
                  'lose more.'),
    'vq': ('VQ tokenizer', 'a small VQ autoencoder with 512 codes (lesson 04), for the comparisons with cross-entropy',
           'It blurs: a code has 9 bits, and a picture 64 of them.'),
    'classifier': ('Classifier of CIFAR-10', 'what judges drawn CIFAR-10 pictures: its features give the Frechet and '
                   'kernel distances of lessons 14, 15, 16 and 18, its answers the share of recognised pictures',
                   'Its distances are no FIDs and cannot be compared with published ones. It errs on one real test '
                   'picture in nine, most often on cats.'),
}

def megabytes(folder:Path)->str:
    return f"{sum(f.stat().st_size for f in folder.rglob('*') if f.is_file() and f.name != 'README.md')/1e6:.1f} MB"

def where(machine)->str:
    if isinstance(machine, str): return machine
    cpu, threads = machine.get('cpu') or machine.get('processor'), machine['threads']
    return f"{cpu}, {threads} thread{'s'*(threads > 1)}, {machine['simd']}, torch {machine['torch']}"

def training(r:dict)->list[str]:
    "Data, command, time"
    commands = r.get('made_by') or [r['command']] if 'command' in r or 'made_by' in r else ['python scripts/ship_vq.py']
    before = r.get('started from')
    while before: commands, before = [before['command'], *commands], before.get('started from')
    seconds = r.get('CPU seconds', r.get('cpu_seconds', r.get('seconds')))
    if seconds is None: seconds = r['images_seen']/r['median_images_per_second']
    data = r['settings'].get('data') if 'images_seen' in r else None
    pictures = PICTURES.get(data) or r['train_pictures']
    seen = r.get('images_seen') or r.get('pictures seen')
    return [f'* Trained on: {pictures}' + (f'; {seen:,} pictures seen.' if seen else '.'),
            f"* Time of the last run: {seconds/60:.0f} minutes on {where(r['machine'])}.",
            '* Commands, from the root of the repository:', '', '  ```', *(f'  {c}' for c in commands), '  ```']

def results(r:dict)->list[str]:
    "Every number of the report that says how good it is"
    flat = {k: v for k, v in r.items() if isinstance(v, float)}
    flat |= {f'{name}, {k}': v for name in ('held_out_noise_error', 'evaluation', 'test accuracy by class')
             for k, v in r.get(name, {}).items() if isinstance(v, (int, float))}
    skipped = 'scale', 'median_images_per_second', 'MFLOPs', 'seconds'
    rows = [f"| {k.replace('_', ' ')} | {v:.4g} |" for k, v in flat.items() if not k.startswith(skipped)]
    return ['| measured | |', '|---|---|', *rows]

def card(name:str)->str:
    r = json.loads((FOLDER/name/'report.json').read_text(encoding='utf-8'))
    title, use, limits = WHAT[name]
    return '\n'.join([f'# {title}', '', f'{use[0].upper()}{use[1:]}. {megabytes(FOLDER/name)}.', '', *training(r), '',
        '## Results', '', *results(r), '', 'More, with the history of the training, is in `report.json`.', '',
        '## Limits', '', limits, '', '## Licence', '',
        f"{read_settings()['license'].replace('apache2', 'Apache 2.0')}, as the rest of the repository. The training "
        'pictures are not part of it.', ''])

if __name__ == '__main__':
    check, stale = read_flags(__doc__, check='write nothing; an error where a card is not up to date').check, []
    for name in WHAT:
        path, text = FOLDER/name/'README.md', card(name)
        if path.exists() and path.read_text(encoding='utf-8') == text: continue
        stale.append(str(path.relative_to(ROOT)))
        if not check: path.write_text(text, encoding='utf-8')
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(bool(stale) and check)
