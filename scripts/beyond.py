"""Lesson 17 with several seeds. What its cells measure is kept in benchmarks/results/beyond.json:

    python scripts/beyond.py --seeds 3
    python scripts/beyond.py --seeds 3 --masked

The lesson's own cells are run as they stand; only `seed = 0` becomes another number. The first command runs the main
part up to the hidden middle, without what shows recorded results; some minutes a seed on one core. The second trains
the masked models, longer than a lesson can wait, and has them judged by the lesson's cells; the first of them becomes
the checkpoint that the lesson loads."""
import argparse, json, os, time
from pathlib import Path
from cells import code_cells

root = Path(__file__).resolve().parent.parent
checkpoint = root/'data'/'japanese-vowels'/'masked'
# what the second command needs of the cells before the hidden middle: each of these stands in one of them
NEEDED = ('import copy', 'seed = 0\n', 'def new_model', 'def read_utterances', 'def scaled', 'def those_of',
          'SPEECH = ', 'def classifier', 'def train_masked', 'def look_at')

def run(cells, seed):
    "What these cells define, with another seed"
    names = {}
    for source in cells:
        exec(source.replace('seed = 0\n', f'seed = {seed}\n', 1) if source.startswith('seed = 0\n') else source, names)
        names['plt'].close('all')
    return names

def main_part(seed):
    cells = list(code_cells('17_beyond_images'))
    end, = (k for k, source in enumerate(cells) if 'def train_masked' in source)
    found = run(cells[:end], seed)['found']
    return {part: found[part] for part in ('walks', 'speech')}

def masked_part(seed, steps):
    from marlearn.engine.checkpoints import save_checkpoint
    from marlearn.train import TrainConfig
    cells = list(code_cells('17_beyond_images'))
    names = run([source for source in cells if any(word in source for word in NEEDED)], seed)
    model = names['train_masked'](steps)
    if seed == 0:
        save_checkpoint(checkpoint, model=model, config=TrainConfig(steps=steps), step=steps,
                        classes=[f'speaker {s + 1}' for s in range(names['SPEAKERS'])])
    return {'middle': names['look_at'](model, names['long_enough'](names['held']))}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--masked', action='store_true', help='train and judge the masked models')
    parser.add_argument('--steps', type=int, default=1500, help='of the masked models')
    parser.add_argument('--out', type=Path, default=root/'benchmarks'/'results'/'beyond.json')
    args = parser.parse_args()
    import matplotlib
    matplotlib.use('Agg')
    import torch
    from marlearn.engine.hardware import machine
    torch.set_num_threads(1)
    out = args.out.resolve()
    os.chdir(root/'nbs')
    runs = []
    for seed in range(args.seeds):
        start = time.perf_counter()
        runs.append(masked_part(seed, args.steps) if args.masked else main_part(seed))
        print(f'seed {seed}: {time.perf_counter() - start:.0f} seconds', flush=True)
        result = json.loads(out.read_text(encoding='utf-8')) if out.exists() else {}
        result |= {'what': 'lesson 17: distances of walks to their law, and of utterances to held-out ones, by seed',
                   'command': 'python scripts/beyond.py; python scripts/beyond.py --masked', 'machine': machine()}
        result.pop('torch', None)                                        # older files have it here
        if args.masked: result['steps of the masked models'] = args.steps
        result |= {part: [run[part] for run in runs] for part in runs[0]}
        out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')

if __name__ == '__main__':
    main()
