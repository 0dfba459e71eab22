"""Draw nbs/images/front.png, quality against time, from the results of benchmarks.front: python -m benchmarks.figure"""
import json
from pathlib import Path
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]

if __name__ == '__main__':
    rows = json.loads((ROOT/'benchmarks'/'results'/'front.json').read_text(encoding='utf-8'))['rows']
    rows = sorted(rows, key=lambda r: r['seconds_per_image'])
    fig, ax = plt.subplots(figsize=(9, 4.6), layout='constrained')
    best = float('inf')
    for k, r in enumerate(rows, 1):
        ms, colour = 1000*r['seconds_per_image'], 'C1' if r['frechet'] < best else 'C0'
        best = min(best, r['frechet'])
        marker = 'D' if r['way'] == 'exact' else 'o'
        ax.errorbar(ms, r['frechet'], yerr=r['frechet_sd'], fmt=marker, color=colour, capsize=2,
                    label=f"{k}  {r['way']}")
        ax.annotate(str(k), (ms, r['frechet']), fontsize=8, textcoords='offset points',
                    xytext=[(4, 4), (4, -11), (-13, 4)][k % 3])       # neighbours lie close together
    ax.set(xscale='log', xlabel='ms for a picture, CIFAR-10 model of version 0.1',
           ylabel='Frechet distance, three seeds', title='orange: nothing faster is better')
    ax.grid(alpha=.3)
    ax.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, .5), handlelength=1)
    out = ROOT/'nbs'/'images'/'front.png'
    fig.savefig(out, dpi=110)
    print(f'written to {out}')
