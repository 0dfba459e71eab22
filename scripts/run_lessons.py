"""Run notebooks in a real kernel and store their outputs, small and clean:

    python scripts/run_lessons.py 11_mar engine/run     (nothing: all of them, lessons first)

Progress bars, logs (stderr) and widgets, which need a kernel, are dropped, figures become palette images where that
changes no pixel visibly, and nbdev-clean does the rest."""
import argparse, base64, io, os, subprocess, sys, tempfile, time
from pathlib import Path
import nbformat, numpy as np
from nbclient import NotebookClient
from PIL import Image

WIDGET = 'application/vnd.jupyter.widget-view+json'
SHADES = ((32, .7), (64, 1), (256, 3))     # colours, and the mean change of a pixel, of 255, that nobody notices
root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'

def notebooks()->list[Path]:
    "All notebooks that are run: lessons in order, then the engine's, then the course's"
    return [*sorted(nbs.glob('[0-9]*.ipynb')), *sorted(nbs.glob('engine/*.ipynb')), *sorted(nbs.glob('course/*.ipynb'))]

def find(
    name:str, # '11_mar', 'engine/run', or a path; with or without .ipynb
)->Path:
    "The notebook of that name"
    name = name.removesuffix('.ipynb')
    for path in (nbs/f'{name}.ipynb', Path(f'{name}.ipynb').resolve()):
        if path.exists(): return path
    known = ', '.join(str(p.relative_to(nbs).with_suffix('')) for p in notebooks())
    sys.exit(f'no notebook {name!r}; there are {known}')

def smaller(
    png:str, # base64
)->str: # base64
    "The same picture with at most 256 colours, if nobody can tell"
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
    for colours, limit in SHADES:
        palette = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE, kmeans=1)
        change = np.abs(np.asarray(picture, float) - np.asarray(palette.convert('RGB'), float)).mean()
        out = io.BytesIO()
        palette.save(out, 'png', optimize=True)
        small = base64.b64encode(out.getvalue()).decode()
        if change < limit and len(small) < len(png): return small
    return png

def run(path:Path):
    "Execute a notebook where it lies and store what is worth keeping of its outputs"
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as nobody:             # the reader's progress, not that of whoever runs this
        os.environ['MARLEARN_PROGRESS'] = f'{nobody}/progress.json'
        os.environ.pop('MARLEARN_DATA', None)                 # stored outputs show no pictures that are not ours
        where = {'metadata': {'path': str(path.parent)}}
        NotebookClient(notebook, timeout=900, kernel_name='python3', resources=where).execute()
    for cell in notebook.cells:
        if cell.cell_type != 'code': continue
        cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr' and WIDGET not in o.get('data', {})]
        for o in cell.outputs:
            if 'image/png' in o.get('data', {}):
                o['data']['image/png'] = smaller(o['data']['image/png'])
    notebook.metadata.pop('widgets', None)
    nbformat.write(notebook, path)
    subprocess.run([Path(sys.executable).parent/'nbdev-clean', '--fname', str(path)], check=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', help='names, with or without nbs/ and .ipynb')
    for path in [find(n) for n in parser.parse_args().notebooks] or notebooks():
        start = time.perf_counter()
        run(path)
        seconds, size = time.perf_counter() - start, path.stat().st_size//1024
        print(f'{path.relative_to(nbs).with_suffix("")}: {seconds:.0f} s, {size} KB', flush=True)
