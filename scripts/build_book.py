"""Build the web book from the notebooks as they are stored, into book/_build/html.

Nothing is run and nothing is fetched; warnings are errors, and every link inside the book is followed.

    python scripts/build_book.py"""
import importlib, inspect, json, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parent.parent
nbs, book, work = root/'nbs', root/'book', root/'book'/'_build'
source, site = work/'source', work/'html'
sys.path.insert(0, str(root))
from marlearn.course.map import GLOSSARY, LESSONS

PARTS = { # caption in the list of pages -> numbers of lessons
    'Start': range(0, 3),
    'Pictures to tokens': range(3, 6),
    'Tokens to distributions': range(6, 11),
    'The masked model': range(11, 14),
    'Judged and used': range(14, 99),
}
COURSE = ('map', 'exercises', 'progress') # notebooks of nbs/course, in the order in which they are read

# Notebooks

def reader_cell(cell:dict)->dict|None: # None: nothing for a reader
    "A cell as readers see it: without what only steers nbdev, with checks and solutions folded, figures described"
    text = ''.join(cell['source'])
    if cell['cell_type'] != 'code': return cell
    directives = {m[1]: m[2].strip() for m in re.finditer(r'^#\|\s*([\w-]+):?(.*)$', text, re.M)}
    code = '\n'.join(line for line in text.splitlines() if not line.startswith('#|')).strip()
    if 'hide' in directives or not code: return None
    check = directives.get('export', '').startswith('course.checks.')
    if check and 'def check_' not in code: return None                    # its imports
    tags, shown = [], {}
    if check:
        tags, shown = ['hide-input'], {'code_prompt_show': 'The check', 'code_prompt_hide': 'Hide the check'}
    if summary := directives.get('code-summary', '').strip('"'):
        tags, shown = ['hide-cell'], {'code_prompt_show': summary, 'code_prompt_hide': 'Hide the solution'}
    if alt := directives.get('fig-alt'):
        shown['image'] = {'alt': alt}
    return cell | {'source': code.splitlines(keepends=True), 'metadata': {'tags': tags, 'mystnb': shown}}

def links_inside(
    text:str, # Markdown
    path:Path, # of the notebook that it stands in
)->str:
    "The same without links to files of the repository, which the book does not have"
    def keep(link):
        place = link[2].partition('#')[0]
        outside = '://' not in place and not (path.parent/place).resolve().is_relative_to(nbs)
        return link[1] if outside else link[0]
    return re.sub(r'(?<!!)\[([^\]]*)\]\(([^)]*)\)', keep, text)

def reader_notebook(path:Path)->dict:
    "A notebook as the book shows it; the code of its optional section is folded"
    notebook, is_optional = json.loads(path.read_text(encoding='utf-8')), False
    notebook['cells'] = [c for c in map(reader_cell, notebook['cells']) if c]
    for c in notebook['cells']:
        text = ''.join(c['source'])
        if c['cell_type'] == 'markdown':
            if titles := re.findall(r'^## (.*)', text, re.M):
                is_optional = titles[-1].startswith('Further')
            c['source'] = links_inside(text, path).splitlines(keepends=True)
        elif is_optional and not c['metadata'].get('tags'):
            shown = c['metadata']['mystnb'] | {'code_prompt_show': 'Code and result', 'code_prompt_hide': 'Hide'}
            c['metadata'] = {'tags': ['hide-cell'], 'mystnb': shown}
    notebook['metadata'] = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}}
    return notebook

# The library's reference

def comments(function)->dict[str, str]:
    "The comment behind each parameter, and behind the closing bracket ('return')"
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError): return {}
    before, name = r'(?:\*{0,2}\w+\s*(?::[^,#]*)?,\s*)*', r'\*{0,2}(\w+)\s*(?::[^#]*?)?'
    parameter = re.compile(rf'^(?:.*[(,]\s*)?\s*{before}{name},?\s*#\s*(.*)$')
    found, head = {}, text.split('\n    "')[0]
    for line in head.splitlines():
        if m := re.match(r'\s*\)\s*->.*?:\s*#\s*(.*)$', line):
            found['return'] = m[1]
        elif m := parameter.match(line):
            found[m[1]] = m[2]
    return found

def cell_text(text)->str:
    "Text that is safe in a cell of a Markdown table"
    text = str(text).replace('|', r'\|').replace('\n', ' ').replace('<', '&lt;')
    return text.replace('*', r'\*').replace('_', r'\_')

def table(rows:list)->list[str]: # lines
    "Name, kind or default, and meaning of each parameter"
    if not rows: return []
    lines = [f"| `{name}` | {f'`{kind}`' if kind else ''} | {cell_text(what)} |" for name, kind, what in rows]
    return ['', '| name | kind or default | meaning |', '|---|---|---|', *lines, '']

def parameters(thing)->list[tuple[str, str, str]]:
    "Rows for the fields of a dataclass, or for the parameters of a function or class that have a comment"
    if inspect.isclass(thing) and hasattr(thing, '__dataclass_fields__'):
        notes = comments(thing)
        def kind(f): return f.type if isinstance(f.type, str) else getattr(f.type, '__name__', str(f.type))
        return [(f.name, kind(f), notes.get(f.name, '')) for f in thing.__dataclass_fields__.values()]
    notes = comments(thing.__init__ if inspect.isclass(thing) else thing)
    try:
        known = inspect.signature(thing).parameters
    except (TypeError, ValueError):
        known = {}
    def default(p): return '' if p.default is inspect.Parameter.empty else repr(p.default)[:60]
    rows = [(n, default(p), notes[n]) for n, p in known.items() if notes.get(n)]
    return rows + ([('returns', '', notes['return'])] if 'return' in notes else [])

def describe(name:str, thing, level:int=2)->list[str]:
    "A function or class of the library in Markdown"
    try:
        signature = str(inspect.signature(thing))
    except (TypeError, ValueError):
        signature = ''
    signature = re.sub(r"(?:'|typing\.|torch\.|pathlib\.|collections\.abc\.)", '', signature)
    if len(signature) >= 160:
        signature = '(...)'
    short, kind = name.rpartition('.')[2], 'class ' if inspect.isclass(thing) else ''
    out = ['', f"{'#'*level} {short}", '', '```python', f'{kind}{short}{signature}', '```', '',
           cell_text(inspect.getdoc(thing) or ''), *table(parameters(thing))]
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            public = inspect.isfunction(function) and not method.startswith('_')
            if public and inspect.getdoc(function):
                out += describe(f'{name}.{method}', function, level + 1)
    return out

def reference(module_name:str)->str:
    "The page of a module"
    module = importlib.import_module(f'marlearn.{module_name}')
    out = [f'# marlearn.{module_name}', '', cell_text(inspect.getdoc(module) or '')]
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            out += describe(name, thing)
        else:
            keys = f" with {', '.join(f'`{k}`' for k in thing)}" if isinstance(thing, dict) and thing else ''
            out += ['', f'## {name}', '', f'`{type(thing).__name__}`{keys}']
    return '\n'.join(out) + '\n'

def modules()->list[str]:
    "All public modules: the method's, then those of the engine and of the course"
    found = []
    for folder in ('', 'engine/', 'course/'):
        paths = sorted((root/'marlearn').glob(f'{folder}[a-z]*.py'))
        found += [f"{folder.replace('/', '.')}{p.stem}" for p in paths]
    return found

# All pages

def tree(caption:str, pages:list[str])->list[str]:
    "Lines of a part of the list of pages"
    return ['', '```{toctree}', ':hidden:', f':caption: {caption}', '', *pages, '```'] if pages else []

def page_tree()->str:
    "The list of pages, which Sphinx reads in the front page"
    lines = []
    for caption, numbers in PARTS.items():
        lines += tree(caption, [f'{l.number:02d} {l.title} <{l.notebook}>' for l in LESSONS if l.number in numbers])
    lines += tree('The engine', [f'engine/{p.stem}' for p in sorted(nbs.glob('engine/*.ipynb'))])
    lines += tree('How the course works', [f'course/{name}' for name in COURSE])
    return '\n'.join(lines + tree('Look up', ['glossary', 'api/index']))

def glossary_page()->str:
    rows = [f'| `{name}` | {cell_text(shape)} | {cell_text(meaning)} |' for name, shape, meaning in GLOSSARY]
    return '\n'.join(['# Glossary', '', 'One meaning for each word, in all lessons and in the library.', '',
                      '| name | shape or unit | meaning |', '|---|---|---|', *rows, ''])

def write_source():
    "All pages that Sphinx reads"
    shutil.rmtree(work, ignore_errors=True)
    for folder in ('api', 'engine', 'course'):
        (source/folder).mkdir(parents=True)
    for name in ('conf.py', 'mathml.py'):
        shutil.copy(book/name, source/name)
    shutil.copytree(book/'_static', source/'_static')
    shutil.copytree(nbs/'images', source/'images')
    for path in (*nbs.glob('*.ipynb'), *nbs.glob('*/*.ipynb')):
        if path.parent.name.startswith('.'): continue                     # checkpoints of Jupyter
        notebook = reader_notebook(path)
        if path.name == 'index.ipynb':
            text = page_tree().splitlines(keepends=True)
            notebook['cells'].append({'cell_type': 'markdown', 'id': 'trees', 'metadata': {}, 'source': text})
        (source/path.relative_to(nbs)).write_text(json.dumps(notebook), encoding='utf-8')
    (source/'glossary.md').write_text(glossary_page(), encoding='utf-8')
    names = modules()
    (source/'api'/'index.md').write_text('\n'.join([
        '# The library', '',
        'Every public name, with what its parameters mean. The notebook of the same name builds it.', '',
        '```{toctree}', '', *names, '```', '']), encoding='utf-8')
    for name in names:
        (source/'api'/f'{name}.md').write_text(reference(name), encoding='utf-8')

# Links

class Page(HTMLParser):
    "Links, anchors and what a page loads"
    def __init__(self):
        super().__init__()
        self.links, self.anchors, self.loads = [], set(), []

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if a.get('id'):
            self.anchors.add(a['id'])
        if tag == 'a' and a.get('href'):
            self.links.append(a['href'])
        if tag in ('img', 'script', 'source', 'iframe') and a.get('src'):
            self.loads.append(a['src'])
        if tag == 'link' and a.get('href') and a.get('rel') not in ('canonical', 'author'):
            self.loads.append(a['href'])

def broken_links(site:Path)->list[str]:
    "Links that lead nowhere inside the site, and anything that a page loads from elsewhere"
    pages = {}
    for path in site.rglob('*.html'):
        if '_static' in path.parts: continue
        pages[path] = Page()
        pages[path].feed(path.read_text(encoding='utf-8'))
    wrong = set()
    for path, page in pages.items():
        here = path.relative_to(site)
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != 'data':
                    wrong.add(f'{here} loads {link}')
                continue
            target = (path.parent/unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target/'index.html'
            if not target.exists():
                wrong.add(f'{here}: {link} does not exist')
            elif parts.fragment and target in pages and link in page.links:
                found = unquote(parts.fragment) in pages[target].anchors
                if not found:
                    wrong.add(f'{here}: {link}, there is no such place')
    return sorted(wrong)

if __name__ == '__main__':
    write_source()
    sphinx = [sys.executable, '-m', 'sphinx', '-b', 'html', '-W', '--keep-going', '-q', str(source), str(site)]
    subprocess.run(sphinx, check=True)
    if wrong := broken_links(site): sys.exit('links that lead nowhere:\n  ' + '\n  '.join(wrong[:40]))
    n_pages = sum(1 for _ in site.rglob('*.html'))
    print(f'the book is in {site.relative_to(root)}: {n_pages} pages, all links followed')
