"""Give each lesson a link to Google Colab under its title, and a folded cell that installs the course there.

    python scripts/colab.py            # a second time changes nothing
    python scripts/colab.py --check    # only tell whether the lessons are up to date

The repository's address comes from settings.ini. Outside Colab the cell does nothing."""
import json, re, sys
from settings import read_flags, read_settings, ROOT

CELL = 'install-on-colab' # the id by which the cell is found again
COLAB = 'https://colab.research.google.com/github'
LINK = re.compile(rf'\[[^]]*\]\({re.escape(COLAB)}/[^)]*\)')
INSTALL = """#| hide
if 'google.colab' in str(get_ipython()): # anywhere else nothing happens
    !git clone -q --depth 1 -b {branch} {repo_url} /content/{lib_name}
    !pip install -q /content/{lib_name} fastcore
    %cd -q /content/{lib_name}/nbs"""

def link(
    notebook:str, # '03_vae.ipynb'
)->str: # Markdown
    "Where Colab opens a lesson from"
    s = read_settings()
    repo = s['repo_url'].removeprefix('https://github.com/')
    return f"[Open in Colab]({COLAB}/{repo}/blob/{s['branch']}/nbs/{notebook})"

def with_link(
    text:str, # of the lesson's first cell: `# Title`, then `> sentence`
    notebook:str,
)->str: # the same text with the link under the sentence
    "A link that is there already is replaced"
    if LINK.search(text): return LINK.sub(lambda _: link(notebook), text, count=1)
    head = re.match(r'# .+\n(?:> .+(?:\n|$))+', text)
    if not head: sys.exit(f'{notebook} must begin with "# title" and "> sentence"')
    return f'{head[0].rstrip()}\n\n{link(notebook)}{text[len(head[0].rstrip()):]}'

def install_cell()->dict:
    "Hidden in the book, folded in JupyterLab"
    source = INSTALL.format(**read_settings()).splitlines(keepends=True)
    return {'cell_type': 'code', 'execution_count': None, 'id': CELL, 'metadata': {'jupyter': {'source_hidden': True}},
            'outputs': [], 'source': source}

def with_colab(
    text:str, # of the file
    notebook:str, # its name
)->str:
    "A lesson that Colab can open"
    content = json.loads(text)
    first, *others = content['cells']
    first['source'] = with_link(''.join(first['source']), notebook).splitlines(keepends=True)
    content['cells'] = [first, install_cell(), *(c for c in others if c['id'] != CELL)]
    return json.dumps(content, indent=1, ensure_ascii=False) + '\n'

if __name__ == '__main__':
    check, stale = read_flags(__doc__, check='write nothing; an error where a lesson is not up to date').check, []
    for path in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')):
        before = path.read_text(encoding='utf-8')
        after = with_colab(before, path.name)
        if after == before: continue
        stale.append(path.name)
        if not check:
            path.write_text(after, encoding='utf-8')
    if check and stale: sys.exit(f'run python scripts/colab.py: {", ".join(stale)} not up to date')
