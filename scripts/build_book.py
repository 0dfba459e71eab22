"""Build the web book from the lessons as they are stored, into book/_build/html. Nothing is run and nothing is fetched; warnings are errors, and every link inside the book is followed.

    python scripts/build_book.py"""
import ast, importlib, inspect, json, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parent.parent
book, work = root/'book', root/'book'/'_build'
source, site = work/'source', work/'html'
sys.path.insert(0, str(root))
from marlearn.course import GLOSSARY, LESSONS

PARTS = {'Start': range(0, 3), 'Pictures to tokens': range(3, 6), 'Tokens to distributions': range(6, 11), 'The masked model': range(11, 14), 'Judged and used': range(14, 99)}

def reader_cell(cell:dict)->dict|None: # None: nothing for a reader
    "A cell as the book shows it: without what only steers nbdev, with checks and solutions folded and figures described"
    text = ''.join(cell['source'])
    if cell['cell_type'] != 'code': return cell
    directives = {m[1]: m[2].strip() for m in re.finditer(r'^#\|\s*([\w-]+):?(.*)$', text, re.M)}
    code = '\n'.join(line for line in text.splitlines() if not line.startswith('#|')).strip()
    if 'hide' in directives or not code: return None
    check = directives.get('export', '').startswith('exercises.')
    if check and 'def check_' not in code: return None                    # its imports
    tags, shown = [], {}
    if check: tags, shown = ['hide-input'], {'code_prompt_show': 'The check', 'code_prompt_hide': 'Hide the check'}
    if directives.get('code-summary'): tags, shown = ['hide-cell'], {'code_prompt_show': directives['code-summary'].strip('"'), 'code_prompt_hide': 'Hide the solution'}
    if alt := directives.get('fig-alt'): shown['image'] = {'alt': alt}
    return cell | {'source': code.splitlines(keepends=True), 'metadata': {'tags': tags, 'mystnb': shown}}

def reader_notebook(path:Path)->dict:
    "A lesson as the book shows it"
    notebook = json.loads(path.read_text(encoding='utf-8'))
    notebook['cells'] = [c for c in map(reader_cell, notebook['cells']) if c]
    for c in notebook['cells']:
        if c['cell_type'] == 'markdown': c['source'] = re.sub(r'\[([^\]]*)\]\(\.\./[^)]*\)', r'\1', ''.join(c['source'])).splitlines(keepends=True)    # the book has no files of the repository
    notebook['metadata'] = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}}
    return notebook

def comments(function)->dict[str, str]:
    "The comment behind each parameter, and behind the closing bracket ('return')"
    try: text = inspect.getsource(function)
    except (OSError, TypeError): return {}
    found, head = {}, text.split('\n    "')[0]
    for line in head.splitlines():
        if m := re.match(r'\s*\)\s*->.*?:\s*#\s*(.*)$', line): found['return'] = m[1]
        elif (m := re.match(r'^(?:.*[(,]\s*)?\s*((?:\*{0,2}\w+\s*(?::[^,#]*)?,\s*)*\*{0,2}(\w+)\s*(?::[^#]*?)?),?\s*#\s*(.*)$', line)): found[m[2]] = m[3]
    return found

def cell_text(text)->str: return str(text).replace('|', r'\|').replace('\n', ' ').replace('<', '&lt;').replace('*', r'\*').replace('_', r'\_')

def table(rows)->list[str]:
    return ['', '| name | kind or default | meaning |', '|---|---|---|', *(f'| `{name}` | {kind and f"`{kind}`"} | {cell_text(what)} |' for name, kind, what in rows), ''] if rows else []

def describe(name:str, thing, level:int=2)->list[str]:
    "A function or class of the library in Markdown"
    kind = 'class ' if inspect.isclass(thing) else ''
    try: signature = str(inspect.signature(thing))
    except (TypeError, ValueError): signature = ''
    parameters = re.sub(r"(?:'|typing\.|torch\.|pathlib\.|collections\.abc\.)", '', signature)
    out = ['', f'{"#"*level} {name.rpartition(".")[2]}', '', '```python', f'{kind}{name.rpartition(".")[2]}{parameters if len(parameters) < 160 else "(...)"}', '```', '', inspect.getdoc(thing) and cell_text(inspect.getdoc(thing)) or '']
    if inspect.isclass(thing) and hasattr(thing, '__dataclass_fields__'):
        notes = comments(thing)
        out += table([(f.name, f.type if isinstance(f.type, str) else getattr(f.type, '__name__', str(f.type)), notes.get(f.name, '')) for f in thing.__dataclass_fields__.values()])
    else:
        notes = comments(thing.__init__ if inspect.isclass(thing) else thing)
        known = inspect.signature(thing).parameters if signature else {}
        out += table([(n, '' if p.default is inspect.Parameter.empty else repr(p.default)[:60], notes.get(n, '')) for n, p in known.items() if notes.get(n)] + ([('returns', '', notes['return'])] if 'return' in notes else []))
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            if inspect.isfunction(function) and not method.startswith('_') and inspect.getdoc(function): out += describe(f'{name}.{method}', function, level + 1)
    return out

def reference(module_name:str)->str:
    "The page of a module"
    module = importlib.import_module(f'marlearn.{module_name}')
    out = [f'# marlearn.{module_name}', '', cell_text(inspect.getdoc(module) or '')]
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing): out += describe(name, thing)
        else: out += ['', f'## {name}', '', f'`{type(thing).__name__}`' + (f' with {", ".join(f"`{k}`" for k in thing)}' if isinstance(thing, dict) else '')]
    return '\n'.join(out) + '\n'

def write_source():
    "All pages that Sphinx reads"
    shutil.rmtree(work, ignore_errors=True)
    (source/'api').mkdir(parents=True)
    for name in ('conf.py', 'mathml.py', '_static'): (shutil.copytree if (book/name).is_dir() else shutil.copy)(book/name, source/name)
    shutil.copytree(root/'nbs'/'images', source/'images')
    for path in sorted((root/'nbs').glob('*.ipynb')): (source/('front.ipynb' if path.stem == 'index' else path.name)).write_text(json.dumps(reader_notebook(path)), encoding='utf-8')
    front = json.loads((source/'front.ipynb').read_text(encoding='utf-8')); (source/'front.ipynb').unlink()
    trees = []
    for caption, numbers in PARTS.items():
        inside = [l for l in LESSONS if l.number in numbers]
        trees += ['', '```{toctree}', ':hidden:', f':caption: {caption}', '', *(f'{l.number:02d} {l.title} <{l.notebook}>' for l in inside), *(['How the course works <00_course>'] if caption == 'Start' else []), '```']
    modules = [p.stem for p in sorted((root/'marlearn').glob('[a-z]*.py'))]
    trees += ['', '```{toctree}', ':hidden:', ':caption: Look up', '', 'glossary', 'api/index', '```']
    front['cells'].append({'cell_type': 'markdown', 'id': 'trees', 'metadata': {}, 'source': '\n'.join(trees).splitlines(keepends=True)})
    (source/'index.ipynb').write_text(json.dumps(front), encoding='utf-8')
    (source/'glossary.md').write_text('\n'.join(['# Glossary', '', 'One meaning for each word, in all lessons and in the library.', '', '| name | shape or unit | meaning |', '|---|---|---|', *(f'| `{n}` | {cell_text(s)} | {cell_text(m)} |' for n, s, m in GLOSSARY), '']), encoding='utf-8')
    (source/'api'/'index.md').write_text('\n'.join(['# The library', '', 'Every public name, with what its parameters mean. The lesson of the same name builds it.', '', '```{toctree}', '', *modules, '```', '']), encoding='utf-8')
    for name in modules: (source/'api'/f'{name}.md').write_text(reference(name), encoding='utf-8')

class Page(HTMLParser):
    "Links, anchors and what a page loads"
    def __init__(self): super().__init__(); self.links, self.anchors, self.loads = [], set(), []
    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if a.get('id'): self.anchors.add(a['id'])
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag in ('img', 'script', 'source', 'iframe') and a.get('src'): self.loads.append(a['src'])
        if tag == 'link' and a.get('href') and a.get('rel') not in ('canonical', 'author'): self.loads.append(a['href'])

def broken_links(site:Path)->list[str]:
    "Links that lead nowhere inside the site, and anything that a page loads from elsewhere"
    pages = {}
    for path in site.rglob('*.html'):
        if '_static' not in path.parts: pages[path] = Page(); pages[path].feed(path.read_text(encoding='utf-8'))
    wrong = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != 'data': wrong.append(f'{path.relative_to(site)} loads {link}')
                continue
            target = (path.parent/unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir(): target = target/'index.html'
            if not target.exists(): wrong.append(f'{path.relative_to(site)}: {link} does not exist')
            elif parts.fragment and target in pages and link in page.links and unquote(parts.fragment) not in pages[target].anchors: wrong.append(f'{path.relative_to(site)}: {link}, there is no such place')
    return sorted(set(wrong))

if __name__ == '__main__':
    write_source()
    subprocess.run([sys.executable, '-m', 'sphinx', '-b', 'html', '-W', '--keep-going', '-q', str(source), str(site)], check=True)
    if wrong := broken_links(site): sys.exit('links that lead nowhere:\n  ' + '\n  '.join(wrong[:40]))
    print(f'the book is in {site.relative_to(root)}: {sum(1 for _ in site.rglob("*.html"))} pages, all links followed')
