"Hand settings.ini, the one place for metadata and requirements, to setuptools"
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(HERE/'settings.ini', encoding='utf-8')
c = config['DEFAULT']

EXTRAS = ('metrics', 'tensorboard', 'dev', 'book', 'browser')

def lines(key): return [line.strip() for line in c[key].splitlines() if line.strip()]

setup(
    name=c['lib_name'],
    version=c['version'],
    description=c['description'],
    long_description=(HERE/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=c['keywords'].split(),
    author=c['author'],
    license=c['license'],
    python_requires='>=' + c['min_python'],
    # data/pretrained travels inside the wheel, so that `marlearn sample` works without the repository
    packages=[*find_packages(str(HERE), include=['marlearn', 'marlearn.*']), 'marlearn.pretrained'],
    package_dir={'marlearn': 'marlearn', 'marlearn.pretrained': 'data/pretrained'},
    package_data={'marlearn': ['py.typed'], 'marlearn.pretrained': ['**/*']},
    zip_safe=False,
    install_requires=lines('requirements'),
    extras_require={extra: lines(f'{extra}_requirements') for extra in EXTRAS},
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['marlearn=marlearn._modidx:d']},
)
