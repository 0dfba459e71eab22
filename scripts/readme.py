"Write README.md from nbs/index.ipynb (with --check: only tell whether it is up to date). Markdown cells as they are, code cells fenced, text outputs below."
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
LINK = re.compile(r'\]\((?!https?:|#)([^)]*)')                 # links are relative to nbs/ in the notebook, to the root in README

def render(notebook:Path)->str:
    "The notebook's README"
    parts = ['<!-- Written by scripts/readme.py from nbs/index.ipynb: edit that. -->']
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source']).strip()
        if not source or source.startswith('#| hide'): continue
        if cell['cell_type'] == 'markdown': parts.append(LINK.sub(lambda m: '](' + (m[1][3:] if m[1].startswith('../') else f'nbs/{m[1]}'), source))
        elif cell['cell_type'] == 'code':
            code = '\n'.join(l for l in source.splitlines() if not l.startswith('#| ')).strip()
            if code: parts.append(f'```python\n{code}\n```')
            for out in cell['outputs']:
                text = out.get('text') or out.get('data', {}).get('text/plain') or []
                if out.get('name') != 'stderr' and ''.join(text).strip(): parts.append('```\n' + ''.join(text).rstrip() + '\n```')
    return '\n\n'.join(parts) + '\n'

if __name__ == '__main__':
    text, readme = render(root/'nbs'/'index.ipynb'), root/'README.md'
    if '--check' in sys.argv: sys.exit(0 if readme.read_text(encoding='utf-8') == text else 'README.md differs from nbs/index.ipynb: run python scripts/readme.py')
    readme.write_text(text, encoding='utf-8')
