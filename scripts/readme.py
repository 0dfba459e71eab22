"""Write README.md from nbs/index.ipynb (with --check: only tell whether it is up to date). Markdown cells as they are, code cells fenced, text outputs below.

The table of lessons in the index is written first, from `marlearn.course.LESSONS`."""
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
LINK = re.compile(r'\]\((?!https?:|#)([^)]*)')                 # links are relative to nbs/ in the notebook, to the root in README

def lessons_cell()->str:
    "The cell of the index that lists the lessons"
    from marlearn.course import LESSONS
    rows = [f"| {l.number:02d} | [{l.title}]({l.notebook}.ipynb) | {l.question} | {l.minutes} | {', '.join(f'{n:02d}' for n in l.needs) or '-'} | {l.can} |" for l in LESSONS]
    return '\n'.join(['## Lessons', '', 'Start with [00 start](00_start.ipynb): the shipped model at work, the words used everywhere, and how exercises are checked. `marlearn progress` shows what you have passed.', '',
                      '| | lesson | the question it answers | minutes | before it | afterwards you can |', '|---|---|---|---|---|---|', *rows, '',
                      'Minutes are for reading and running, without the exercises. Missing numbers are kept for lessons to come. How map, glossary and exercises are made is in [00 course](00_course.ipynb).'])

def with_lessons(notebook:dict)->dict:
    "The index with its table of lessons as it should be"
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown' and ''.join(cell['source']).startswith('## Lessons'): cell['source'] = lessons_cell().splitlines(keepends=True)
    return notebook

def render(notebook:dict)->str:
    "The notebook's README"
    parts = ['<!-- Written by scripts/readme.py from nbs/index.ipynb: edit that. -->']
    for cell in notebook['cells']:
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
    index, readme = root/'nbs'/'index.ipynb', root/'README.md'
    before = json.loads(index.read_text(encoding='utf-8'))
    notebook = with_lessons(json.loads(index.read_text(encoding='utf-8')))
    text = render(notebook)
    if '--check' in sys.argv: sys.exit(0 if readme.read_text(encoding='utf-8') == text and before == notebook else 'README.md or the table of lessons in nbs/index.ipynb is not up to date: run python scripts/readme.py')
    if before != notebook: index.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    readme.write_text(text, encoding='utf-8')
