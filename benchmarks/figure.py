"""Draw the front page's figures from committed results: python -m benchmarks.figure

nbs/images/front.png: quality against the time for a picture (benchmarks.front)
nbs/images/quality.png: quality against minutes of training (benchmarks.quality)"""
import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT/'benchmarks'/'results', ROOT/'nbs'/'images'

def load(name): return json.loads((RESULTS/f'{name}.json').read_text(encoding='utf-8'))

def draw_front(result):
    rows = sorted(result['rows'], key=lambda r: r['seconds_per_image'])
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
    return fig

def draw_quality(result):
    "A line for each recipe and kind of weights: mean over seeds, and the range"
    fig, ax = plt.subplots(figsize=(6.4, 3.4), layout='constrained')
    for recipe, colour in (('ours', 'C0'), ('paper', 'C1')):
        for weights, style in (('averaged', 'o-'), ('raw', 's--')):
            points = [p for p in result['summary'] if (p['recipe'], p['weights']) == (recipe, weights)]
            points.sort(key=lambda p: p['minutes'])
            middle = [p['frechet'] for p in points]
            around = [[p['frechet'] - p['min'] for p in points], [p['max'] - p['frechet'] for p in points]]
            ax.errorbar([p['minutes'] for p in points], middle, yerr=around, fmt=style, color=colour, capsize=2,
                        label=f'{recipe}, {weights} weights')
    ax.set(xlabel='minutes of training', ylabel='Frechet distance', ylim=(0, None))
    ax.grid(alpha=.3)
    ax.legend(fontsize=8)
    return fig

if __name__ == '__main__':
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    for name, draw in (('front', draw_front), ('quality', draw_quality)):
        out = IMAGES/f'{name}.png'
        draw(load(name)).savefig(out, dpi=110)
        print(f'written to {out}')
