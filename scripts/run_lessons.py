"""Run lessons in a real kernel and store their outputs, small and clean:

    python scripts/run_lessons.py 11_mar 12_generate     (nothing: all of them, in order)

Progress bars, logs (stderr) and widgets, which need a kernel, are dropped, figures become palette images where that changes no pixel visibly, and nbdev-clean does the rest."""
import argparse, base64, io, os, subprocess, sys, tempfile, time
from pathlib import Path
import nbformat, numpy as np
from nbclient import NotebookClient
from PIL import Image

WIDGET = 'application/vnd.jupyter.widget-view+json'
root = Path(__file__).resolve().parent.parent

def smaller(png:str)->str:
    "The same picture with at most 256 colours, if nobody can tell"
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
    for colours, most in ((32, .7), (64, 1), (256, 3)):                  # the mean change of a pixel, of 255, that nobody notices
        palette, out = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE, kmeans=1), io.BytesIO()
        apart = np.abs(np.asarray(picture, float) - np.asarray(palette.convert('RGB'), float))
        palette.save(out, 'png', optimize=True)
        small = base64.b64encode(out.getvalue()).decode()
        if apart.mean() < most and len(small) < len(png): return small
    return png

def run(path:Path):
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as nobody:                        # the reader's progress, not that of whoever runs this
        os.environ['MARLEARN_PROGRESS'] = f'{nobody}/progress.json'
        NotebookClient(notebook, timeout=900, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type != 'code': continue
        cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr' and WIDGET not in o.get('data', {})]
        for o in cell.outputs:
            if 'image/png' in o.get('data', {}): o['data']['image/png'] = smaller(o['data']['image/png'])
    notebook.metadata.pop('widgets', None)
    nbformat.write(notebook, path)
    subprocess.run([Path(sys.executable).parent/'nbdev-clean', '--fname', str(path)], check=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('lessons', nargs='*', help='names of notebooks, with or without nbs/ and .ipynb')
    names = [Path(n).stem for n in parser.parse_args().lessons] or sorted(p.stem for p in (root/'nbs').glob('[0-9]*.ipynb'))
    for name in names:
        start, path = time.perf_counter(), root/'nbs'/f'{name}.ipynb'
        run(path)
        print(f'{name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size//1024} KB', flush=True)
