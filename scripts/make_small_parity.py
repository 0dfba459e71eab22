"""Cut the small vector set in tests/parity out of a full one: `python scripts/make_small_parity.py FULL_SET`.

One model with all its weights and every family of recorded numbers once; only the longest series are left out.
Nothing is computed or rounded: every tensor is copied as it was recorded. The autoencoder's weights (8 MB) are left
out, its key list stays.
"""
import json, re, sys
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import save_file

TO = Path(__file__).resolve().parent.parent/'tests'/'parity'
KEEP = {
    'diffusion': r'(train|r25|r10|ddim50|dgll|kl|maskrate)\..*|sched\.(L16\..*|L256\.n(8|64)\..*)',
    'mar_p1': r'sd\..*|in\..*|out\..*|gradnorm\..*|net\..*|net_cfg\..*|pstep\..*|traj\.(c|.*_noise|.*_T0\.9)|'
              r'traj_cfg3\.(c|.*_noise|.*_T1\.0)|gen\.(labels|orders)|gen\.cfg3lin_T0\.9_n4\..*'}

def main(full):
    TO.mkdir(exist_ok=True)
    for name, pattern in KEEP.items():
        file = safe_open(full/f'{name}.safetensors', 'pt')
        kept = {k: file.get_tensor(k) for k in file.keys() if re.fullmatch(pattern, k)}
        save_file(kept, TO/f'{name}.safetensors', file.metadata())
        print(f'{name}: {len(kept)} of {len(file.keys())} tensors')
    for path in sorted(full.glob('keys_*.json')):
        keys = json.loads(path.read_text(encoding='utf-8'))
        (TO/path.name).write_text(json.dumps(keys, separators=(',', ':')) + '\n', encoding='utf-8')
    print(f'{sum(p.stat().st_size for p in TO.iterdir())/1e6:.2f} MB in {TO.name}/')

if __name__ == '__main__': main(Path(sys.argv[1]))
