"Code of the lessons, for the scripts beside this file that run it with other seeds or other pictures"
import json
from settings import ROOT

def code_cells(lesson):
    "Of the lesson's main part, without cells that need a notebook or show recorded results"
    notebook = json.loads((ROOT/'nbs'/f'{lesson}.ipynb').read_text(encoding='utf-8'))
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown' and source.startswith('## What is now true'): return
        if cell['cell_type'] == 'code' and not any(word in source for word in ('get_ipython', 'recorded', 'explore(')):
            yield source
