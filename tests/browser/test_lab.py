"Three lessons in JupyterLab, as a learner has them: run all cells, move a slider, open a folded solution"
import json, re, time, urllib.request
import pytest

LESSONS = { # name -> first line of a solution
    '00_start': 'def draw_all_solution',
    '08_diffusion': 'def coin_solution',
    '10_orders': 'def asked_solution',
}

def open_lesson(page, lab, name):
    page.goto(f'{lab}/lab/tree/{name}.ipynb?reset')                      # reset: forget what an earlier test had open
    page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=60_000)
    for _ in range(120):           # the page shows "idle" too early, and to run then brings up a dialog for a kernel
        sessions = json.load(urllib.request.urlopen(f'{lab}/api/sessions'))
        kernels = [s['kernel'] for s in sessions if s['path'] == f'{name}.ipynb']
        if any(k['execution_state'] == 'idle' and k['connections'] for k in kernels): break
        page.wait_for_timeout(500)
    else:
        pytest.fail(f'no kernel for {name} within a minute')
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=60_000)

def run_all(page, seconds=300):
    page.locator('.lm-MenuBar-itemLabel', has_text=re.compile('^Run$')).click()
    page.locator('.lm-Menu-itemLabel', has_text=re.compile('^Run All Cells$')).click()
    started, quiet = time.monotonic(), 0
    while quiet < 3:                                               # idle, and nothing waiting, three times in a row
        assert time.monotonic() - started < seconds, f'not finished after {seconds} s'
        assert not page.locator('.jp-Dialog').count(), page.locator('.jp-Dialog').inner_text()
        page.wait_for_timeout(500)
        prompts = page.locator('.jp-Notebook .jp-CodeCell .jp-InputArea-prompt').all_inner_texts()
        idle = page.locator('.jp-Notebook-ExecutionIndicator').first.get_attribute('data-status') == 'idle'
        done = any(re.search(r'\d', p) for p in prompts) and not any('*' in p for p in prompts)
        quiet = quiet + 1 if idle and done else 0

@pytest.mark.parametrize('name', LESSONS)
def test_lesson_runs_and_its_slider_redraws(page, lab, pictures, name):
    open_lesson(page, lab, name)
    run_all(page)
    errors = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert errors.count() == 0, errors.first.inner_text()[:800]
    assert page.locator('.jp-OutputArea-output img').count() > 3

    widget = page.locator('.widget-interact').first
    widget.scroll_into_view_if_needed()
    image = widget.locator('img').first
    image.wait_for(timeout=60_000)                                        # these widgets draw without a button
    before = image.get_attribute('src')
    handle = widget.locator('.noUi-handle').first
    handle.focus()
    for key in ('ArrowRight', 'ArrowRight', 'ArrowRight'):
        page.keyboard.press(key)
    for _ in range(120):
        page.wait_for_timeout(500)
        now = widget.locator('img').first.get_attribute('src') if widget.locator('img').count() else None
        if now and now != before: break
    else:
        pytest.fail('the slider was moved and the picture stayed the same')
    page.screenshot(path=pictures/f'lab-{name}-slider.png')

def test_solution_is_folded_and_opens(page, lab, pictures):
    for name, line in LESSONS.items():
        open_lesson(page, lab, name)
        seen = page.locator('.jp-Notebook .cm-content', has_text=line).count()
        assert not seen, 'the solution must not be seen before it is asked for'
        folded = page.locator('.jp-CodeCell .jp-Placeholder-content', has_text='Solution')
        for _ in range(folded.count()):                                  # one after the other, until the one looked for
            folded.first.scroll_into_view_if_needed()
            folded.first.click()
            page.wait_for_timeout(500)
            if page.locator('.jp-Notebook .cm-content', has_text=line).count(): break
        solution = page.locator('.jp-Notebook .cm-content', has_text=line)
        solution.first.scroll_into_view_if_needed()
        assert solution.count() == 1 and solution.first.is_visible()
        page.screenshot(path=pictures/f'lab-{name}-solution.png')
