"Every solution passes its check, every wrong answer is refused and told why, and no unanswered exercise stops a lesson"
import ast, importlib.util, json, re
from pathlib import Path
import pytest
from marlearn.course.exercises import EXERCISES, load_exercises
from marlearn.course.map import LESSONS, Table
from marlearn.course.progress import progress, read_progress

ROOT = Path(__file__).resolve().parent.parent
load_exercises()
def exported_by(lesson): return [e for e in EXERCISES.values() if e.check.__module__.endswith(f'.checks.{lesson.name}')]
BY_LESSON = {l: exported_by(l) for l in LESSONS}
CASES = [(l, e) for l, es in BY_LESSON.items() for e in es]

def notebook_cells(lesson):
    return json.loads((ROOT/'nbs'/f'{lesson.notebook}.ipynb').read_text(encoding='utf-8'))['cells']

def code_cells(lesson): return [''.join(c['source']) for c in notebook_cells(lesson) if c['cell_type'] == 'code']

def parse(source):
    lines = ('' if line.lstrip().startswith(('%', '!')) else line for line in source.splitlines())
    try:
        return ast.parse('\n'.join(lines))
    except SyntaxError: return None

def imports(lesson):
    "All import statements of the notebook, as one text"
    nodes = [n for c in code_cells(lesson) if (tree := parse(c)) for n in tree.body]
    return '\n'.join(ast.unparse(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)))

def solution(lesson, exercise):
    found = [c for c in code_cells(lesson) if re.search(rf'\b{exercise.__name__}\.accepts\(', c)]
    assert len(found) == 1, f'{exercise.__name__} must have one solution cell in {lesson.notebook}, found {len(found)}'
    return found[0]

def wrong_answers(lesson):
    path = ROOT/'tests'/'wrong_answers'/f'{lesson.notebook}.py'
    assert path.exists(), f'{path.name} with WRONG answers is missing'
    spec = importlib.util.spec_from_file_location(f'wrong_{lesson.name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG

def test_every_exercise_belongs_to_the_lesson_of_its_number():
    assert len(CASES) == len(EXERCISES)
    assert not [f'{e.number} stands in {l.notebook}' for l, e in CASES if l.number != e.lesson]

def ids(case): return f'{case[0].notebook}-{case[1].__name__}'

@pytest.mark.parametrize('lesson', LESSONS, ids=lambda l: l.notebook)
def test_lesson_has_exercises(lesson):
    es = sorted(BY_LESSON[lesson], key=lambda e: e.rank)
    assert (2 if lesson.number in (0, 16, 17) else 3) <= len(es) <= 5 # these three are short
    assert [e.rank for e in es] == list(range(1, len(es) + 1)), 'numbered 1, 2, 3, ...'
    assert len({e.title for e in es}) == len(es)
    assert set(wrong_answers(lesson)) == {e.__name__ for e in es}

@pytest.mark.parametrize('case', CASES, ids=ids)
def test_exercise_is_told_the_same_way(case):
    "Text with minutes and hint, then check, stub, folded solution"
    lesson, e = case
    cells = notebook_cells(lesson)
    text = [(i, ''.join(c['source'])) for i, c in enumerate(cells)]
    head, = [i for i, t in text if cells[i]['cell_type'] == 'markdown' and f'### Exercise {e.number}:' in t]
    told = f'Difficulty {e.difficulty} of 3, about {e.minutes} minute'
    assert told in text[head][1], 'difficulty and minutes differ from the check'
    assert '<summary>Hint</summary>' in text[head][1]
    stub = [i for i, t in text if re.search(rf'^{e.__name__}\(', t, re.M)]
    solved, = [i for i, t in text if f'{e.__name__}.accepts(' in t]
    assert stub and head < stub[0] < solved
    for i in (solved, *(i for i, t in text if f'def {e.__name__}(' in t)):
        assert cells[i]['metadata'].get('jupyter', {}).get('source_hidden'), f'cell {i} must be folded'
    assert '#| code-fold: true' in text[solved][1]

@pytest.mark.parametrize('case', CASES, ids=ids)
def test_solution_passes(case):
    lesson, e = case
    before, names = read_progress(), {}
    exec(compile(imports(lesson), 'imports', 'exec'), names)
    names[e.__name__] = e
    exec(compile(solution(lesson, e), f'solution of {e.number}', 'exec'), names)
    assert read_progress() == before, 'a solution must not count as progress'

@pytest.mark.parametrize('case', CASES, ids=ids)
def test_wrong_answers_are_refused_with_a_reason(case):
    lesson, e = case
    answers = wrong_answers(lesson)[e.__name__]
    assert answers
    for answer in answers:
        verdict = e.judge(answer)
        assert verdict.passed is False, f'{e.number} accepted {answer!r}'
        assert re.search(r'saw +\S', verdict.text) and re.search(r'expected +\S', verdict.text), verdict.text

@pytest.mark.parametrize('case', CASES, ids=ids)
def test_no_answer_is_no_mistake(case):
    def unfinished(*args, **kwargs): raise NotImplementedError
    assert case[1].judge(None).passed is None
    takes_function = any(callable(a) for a in wrong_answers(case[0])[case[1].__name__])
    if takes_function: assert case[1].judge(unfinished).passed is None

def test_progress_is_kept_and_shown(tmp_path, monkeypatch):
    monkeypatch.setenv('MARLEARN_PROGRESS', str(tmp_path/'deep'/'progress.json'))
    e = next(iter(EXERCISES.values()))
    wrong = wrong_answers(next(l for l in LESSONS if l.number == e.lesson))[e.__name__][0]
    assert e(wrong).passed is False
    assert isinstance(progress(), Table) and ' tried once' in repr(progress())
    assert len(progress().rows) == len(EXERCISES)
    for l in LESSONS:
        assert len(progress(l.number).rows) == len(BY_LESSON[l]), 'progress must count by lesson'
