"The web book as a reader has it: pages in order, search, folded solutions, dark mode, nothing loaded from elsewhere"
import importlib.util, re
from conftest import ROOT

def build_module():
    spec = importlib.util.spec_from_file_location('build_book', ROOT/'scripts'/'build_book.py')
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    return module

def test_pages_follow_one_another(page, book, pictures):
    errors = []
    page.on('console', lambda m: errors.append(m.text) if m.type == 'error' else None)
    page.goto(f'{book}/10_orders.html')
    page.screenshot(path=pictures/'book-10_orders.png')
    page.locator('a.right-next').click(); page.wait_for_url('**/11_mar.html')
    page.locator('a.left-prev').click(); page.wait_for_url('**/10_orders.html')
    page.locator('.bd-sidebar-primary a', has_text='Glossary').click(); page.wait_for_url('**/glossary.html')
    assert page.locator('article', has_text='cfg_scale').count()
    assert not errors, errors

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
    assert page.get_by_text('#|').count() == 0 and page.get_by_text('default_exp').count() == 0, 'cells and lines that steer nbdev must not show'

def test_dark_mode_darkens(page, book, pictures):
    page.goto(f'{book}/08_diffusion.html')
    shade = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)")
    page.evaluate("document.documentElement.dataset.theme")
    for _ in range(4):                                                   # auto, light, dark, in turn or from a menu
        if page.evaluate("document.documentElement.dataset.theme") == 'dark': break
        page.locator('.theme-switch-button:visible').first.click()
        item = page.locator('.theme-change-button:visible', has_text=re.compile('dark', re.I))
        if item.count(): item.first.click()
    assert page.evaluate("document.documentElement.dataset.theme") == 'dark'
    assert shade() < 200
    figure = page.locator('article img').nth(1)
    red, green, blue = map(int, page.evaluate("e => getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0, 3)", figure.element_handle()))
    assert min(red, green, blue) > 200, 'a figure with black lines needs a light ground'
    page.screenshot(path=pictures/'book-dark.png')

def test_figures_are_described(page, book):
    page.goto(f'{book}/10_orders.html')
    images = page.locator('article .cell_output img')
    assert images.count() > 5
    assert all(len(i.get_attribute('alt') or '') > 20 for i in images.all())

def test_the_link_checker_sees_what_is_wrong(tmp_path):
    (tmp_path/'a.html').write_text('<p id="here"></p><a href="b.html">b</a><a href="#nowhere">x</a><a href="#here">y</a><img src="https://example.org/x.png"><a href="https://example.org">fine</a>')
    found = build_module().broken_links(tmp_path)
    assert len(found) == 3 and any('b.html does not exist' in f for f in found) and any('#nowhere' in f for f in found) and any('loads https' in f for f in found)
