"""How long is each lesson? Reading at 200 words and 12 lines of code a minute, compared with the minutes on the map.

    python scripts/lesson_times.py            a table
    python scripts/lesson_times.py --check    an error where the map (marlearn.course.map) or the lesson says otherwise
    python scripts/lesson_times.py --write    put the minutes into the map's notebook and the lessons

Counted is what a reader sees in the main part: neither hidden cells nor the optional section ("## Further"), and of
the exercises only the text. Minutes are rounded up to five; the time for the exercises is what their headings say."""
import json, math, re, sys
from dataclasses import dataclass
from pathlib import Path
from settings import read_flags, ROOT

sys.path.insert(0, str(ROOT))
from marlearn.course.map import LESSONS

WORDS, LINES = 200, 12                                                  # that one reads in a minute
MOST_CELLS, MOST_WORDS, MOST_LINES = 70, 2500, 350                      # of the main part

@dataclass(frozen=True)
class Length:
    cells:int # of the main part
    words:int
    lines:int # of code
    exercises:int # minutes

    @property
    def minutes(self)->int: return 5*math.ceil((self.words/WORDS + self.lines/LINES)/5)

def words_of(text:str)->int:
    "Links count as their text; tags, formulas and tables' rules as nothing"
    text = re.sub(r'\]\([^)]*\)|<[^>]*>|^\|[-| ]*\|$', ' ', text, flags=re.M)
    return sum(any(c.isalnum() for c in word) for word in text.split())

def is_hidden(source:str)->bool: return re.search(r'^#\|\s*hide\b', source, re.M) is not None

def lines_of(source:str)->int:
    "Lines with something on them that Python reads"
    return sum(bool(line.strip()) and not line.startswith('#|') for line in source.splitlines())

def measure(path:Path)->Length:
    "Count one lesson's main part"
    cells = words = lines = exercises = 0
    part = 'main'
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        is_code = cell['cell_type'] == 'code'
        if not is_code:
            for title in re.findall(r'^## (.*)', source, re.M):
                part = {'Further': 'further', 'Exercises': 'exercises'}.get(title.split(':')[0].strip(), 'main')
            exercises += sum(map(int, re.findall(r'Difficulty \d of 3, about (\d+) minute', source)))
        if part != 'main' or is_code and is_hidden(source): continue
        cells += 1
        if is_code:
            lines += lines_of(source)
        else:
            words += words_of(source)
    return Length(cells, words, lines, exercises)

def lengths()->dict[str, Length]:
    "Of every lesson, by its notebook's name"
    return {l.notebook: measure(ROOT/'nbs'/f'{l.notebook}.ipynb') for l in LESSONS}

TOLD = re.compile(r'About \d+ minutes(?:, and \d+ more for the exercises)?\. Afterwards')

def told(n:Length)->str: return f'About {n.minutes} minutes, and {n.exercises} more for the exercises. Afterwards'

def write(found:dict[str, Length]):
    "The same minutes in the map and in each lesson"
    map_path = ROOT/'nbs'/'course'/'map.ipynb'
    text = map_path.read_text(encoding='utf-8')
    for lesson in LESSONS:
        n, path = found[lesson.notebook], ROOT/'nbs'/f'{lesson.notebook}.ipynb'
        text, hits = re.subn(rf"(Lesson\({lesson.number}, .*?minutes=)\d+", rf'\g<1>{n.minutes}', text)
        old = path.read_text(encoding='utf-8')
        new, places = TOLD.subn(told(n), old)
        if (hits, places) != (1, 1): sys.exit(f'{lesson.notebook}: {hits} rows on the map, {places} sentences')
        if new != old: path.write_text(new, encoding='utf-8')
    map_path.write_text(text, encoding='utf-8')

if __name__ == '__main__':
    args = read_flags(__doc__, check='an error where the map or a lesson says otherwise',
                      write="put the minutes into the map's notebook and the lessons")
    wrong, found = [], lengths()
    if args.write:
        write(found)
        sys.exit('written; now run nbdev-export and scripts/readme.py')
    print('lesson                cells  words  lines  minutes  on the map  exercises')
    for lesson in LESSONS:
        n = found[lesson.notebook]
        too_long = n.cells > MOST_CELLS or n.words > MOST_WORDS or n.lines > MOST_LINES
        print(f'{lesson.notebook:20} {n.cells:6} {n.words:6} {n.lines:6} {n.minutes:8} {lesson.minutes:11} '
              f'{n.exercises:10}{"  too long" if too_long else ""}')
        if n.minutes != lesson.minutes:
            wrong.append(f'{lesson.notebook}: {n.minutes} minutes, the map says {lesson.minutes}')
        if told(n) not in (ROOT/'nbs'/f'{lesson.notebook}.ipynb').read_text(encoding='utf-8'):
            wrong.append(f'{lesson.notebook} does not say "{told(n)}"')
    print(f'{sum(n.minutes for n in found.values())/60:.1f} hours, and '
          f'{sum(n.exercises for n in found.values())/60:.1f} hours of exercises')
    if args.check and wrong: sys.exit('\n'.join(wrong))
