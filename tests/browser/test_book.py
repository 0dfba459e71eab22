"The web book as a reader has it: pages in order, search, folded solutions, dark mode, nothing loaded from elsewhere"
import importlib.util, re
from conftest import ROOT

def build_module():
    spec = importlib.util.spec_from_file_location('build_book', ROOT/'scripts'/'build_book.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_pages_follow_one_another(page, book, pictures):
    errors = []
    page.on('console', lambda m: errors.append(m.text) if m.type == 'error' else None)
    page.goto(f'{book}/10_orders.html')
    page.screenshot(path=pictures/'book-10_orders.png')
    page.locator('a.right-next').click()
    page.wait_for_url('**/11_mar.html')
    page.locator('a.left-prev').click()
    page.wait_for_url('**/10_orders.html')
    page.locator('.bd-sidebar-primary a', has_text='Glossary').click()
    page.wait_for_url('**/glossary.html')
    assert page.locator('article', has_text='cfg_scale').count()
    assert not errors, errors

def test_all_floors_have_pages(page, book):
    for folder in ('engine', 'course'):
        for notebook in (ROOT/'nbs'/folder).glob('*.ipynb'):
            page.goto(f'{book}/index.html')
            page.locator(f'.bd-sidebar-primary a[href="{folder}/{notebook.stem}.html"]').click()
            page.wait_for_url(f'**/{folder}/{notebook.stem}.html')
            assert page.locator('article h1').count()

def test_search_finds_a_term(page, book):
    page.goto(f'{book}/search.html?q=inpainting')
    page.wait_for_selector('#search-results li a', timeout=20_000)
    assert any('12_generate' in (a.get_attribute('href') or '') for a in page.locator('#search-results li a').all())
    page.goto(f'{book}/search.html?q=xylophone')
    page.wait_for_timeout(1500)
    assert page.locator('#search-results li a').count() == 0

def test_solutions_are_folded_and_open(page, book, pictures):
    page.goto(f'{book}/10_orders.html')
    solution = page.locator('details', has=page.locator('.collapsed', has_text=re.compile('^Solution$'))).first
    code = solution.locator('pre').first
    assert not code.is_visible()
    solution.locator('summary').click()
    assert code.is_visible() and 'argsort' in code.inner_text()
    page.screenshot(path=pictures/'book-solution.png')
    steering = page.get_by_text('#|').count() + page.get_by_text('default_exp').count()
    assert steering == 0, 'cells and lines that steer nbdev must not show'

def test_dark_mode_darkens(page, book, pictures):
    page.goto(f'{book}/08_diffusion.html')
    def colour(element): # red, green, blue of the ground it is drawn on
        text = page.evaluate('e => getComputedStyle(e).backgroundColor', element)
        return [int(v) for v in re.findall(r'\d+', text)[:3]]
    def theme(): return page.evaluate('document.documentElement.dataset.theme')
    for _ in range(4):                                                   # auto, light, dark, in turn or from a menu
        if theme() == 'dark': break
        page.locator('.theme-switch-button:visible').first.click()
        item = page.locator('.theme-change-button:visible', has_text=re.compile('dark', re.I))
        if item.count():
            item.first.click()
    assert theme() == 'dark'
    assert sum(colour(page.locator('body').element_handle())) < 200
    figure = page.locator('article img').nth(1)
    assert min(colour(figure.element_handle())) > 200, 'a figure with black lines needs a light ground'
    page.screenshot(path=pictures/'book-dark.png')

def test_figures_are_described(page, book):
    page.goto(f'{book}/10_orders.html')
    images = page.locator('article .cell_output img')
    assert images.count() > 5
    assert all(len(i.get_attribute('alt') or '') > 20 for i in images.all())

def test_the_link_checker_sees_what_is_wrong(tmp_path):
    wrong = '<a href="b.html">b</a><a href="#nowhere">x</a><img src="https://example.org/x.png">'
    right = '<p id="here"></p><a href="#here">y</a><a href="https://example.org">fine</a>'
    (tmp_path/'a.html').write_text(wrong + right)
    found = build_module().broken_links(tmp_path)
    assert len(found) == 3
    for part in ('b.html does not exist', '#nowhere', 'loads https'):
        assert any(part in f for f in found), part

def test_links_to_files_of_the_repository_become_text():
    inside = build_module().links_inside
    lesson, engine = ROOT/'nbs'/'13_train.ipynb', ROOT/'nbs'/'engine'/'run.ipynb'
    assert inside('[a](../data/x.json) [b](12_generate.ipynb#c)', lesson) == 'a [b](12_generate.ipynb#c)'
    assert inside('[a](../13_train.ipynb) [b](../../README.md)', engine) == '[a](../13_train.ipynb) b'
    assert inside('[a](https://example.org) [b](#here)', engine) == '[a](https://example.org) [b](#here)'
