"""Draw nbs/images/speed.png from the results: python -m benchmarks.figure"""
import json
from pathlib import Path
import matplotlib; matplotlib.use('agg')
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent/'results'

def name(row):
    "What was timed, in a few words"
    return f"{row['model']}: training step" + (row['mode'].removeprefix('fast')) if 'cfg_scale' not in row else f"{row['model']}: drawing, guidance {row['cfg_scale']:g}" + ('\n(approximate)' if row['mode'] == 'approximate' else row['mode'].removeprefix('fast'))

if __name__ == '__main__':
    read = lambda what: json.loads((RESULTS/f'{what}.json').read_text())['rows']
    rows, front = [r for what in ('train', 'sample') for r in read(what) if r['mode'] != 'plain'], sorted(read('front'), key=lambda r: r['seconds_per_image'])
    fig, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.6), layout='constrained')
    left.barh([name(r) for r in rows], [r['ratio'] for r in rows], color=['C1' if r['mode'] == 'approximate' else 'C0' for r in rows])
    for k, r in enumerate(rows): left.text(r['ratio'], k, f" {r['ratio']:.1f}x", va='center', fontsize=8)
    left.axvline(1, color='k', lw=.8, ls='--'); left.invert_yaxis(); left.margins(x=.12); left.tick_params(labelsize=8)
    left.set(xlabel='times as fast as the plain algorithm', title='same result (blue), approximate (orange)')
    best = float('inf')
    for k, r in enumerate(front, 1):
        colour = 'C1' if r['frechet'] < best else 'C0'; best = min(best, r['frechet'])
        right.errorbar(1000*r['seconds_per_image'], r['frechet'], yerr=r['frechet_sd'], fmt='D' if r['way'] == 'exact' else 'o', color=colour, capsize=2, label=f"{k}  {r['way']}")
        right.annotate(str(k), (1000*r['seconds_per_image'], r['frechet']), fontsize=8, xytext=(4, 4), textcoords='offset points')
    right.set(xscale='log', xticks=[1, 2, 3, 5, 10], xticklabels=['1', '2', '3', '5', '10'], xlabel='ms for a picture, shipped CIFAR-10 model', ylabel='Frechet distance, three seeds', title='orange: nothing faster is better'); right.minorticks_off(); right.grid(alpha=.3)
    right.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, .5), handlelength=1)
    out = Path(__file__).resolve().parents[1]/'nbs'/'images'/'speed.png'
    fig.savefig(out, dpi=110); print(f'written to {out}')
