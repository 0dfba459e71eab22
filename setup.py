"Hand settings.ini, the one place for metadata and requirements, to setuptools"
from configparser import ConfigParser
from pathlib import Path
from shutil import copytree
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(HERE/'settings.ini', encoding='utf-8')
c = config['DEFAULT']

EXTRAS = ('metrics', 'tensorboard', 'dev', 'book', 'browser')

def lines(key): return [line.strip() for line in c[key].splitlines() if line.strip()]

PLACES = {'Source': '', 'Issues': 'issues', 'Changes': f"blob/{c['branch']}/CHANGELOG.md"}

class BuildWithModels(build_py):
    "data/pretrained travels inside the wheel, so that `marlearn sample` works without the repository"
    def run(self):
        super().run()
        if not self.editable_mode:
            copytree(HERE/'data'/'pretrained', Path(self.build_lib, 'marlearn', 'pretrained'), dirs_exist_ok=True)

setup(
    name=c['lib_name'],
    version=c['version'],
    description=c['description'],
    long_description=(HERE/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=c['keywords'].split(),
    author=c['author'],
    license_expression=c['license'],
    license_files=['LICENSE'],
    url=c['repo_url'],
    project_urls={name: f"{c['repo_url']}/{place}".rstrip('/') for name, place in PLACES.items()},
    classifiers=lines('classifiers'),
    python_requires='>=' + c['min_python'],
    packages=find_packages(str(HERE), include=['marlearn', 'marlearn.*']),
    # One root and no mapped package: then an editable install is a path entry. A finder would lose to a folder called
    # marlearn in the current folder, and that is what a clone is called.
    package_dir={'': '.'},
    package_data={'marlearn': ['py.typed']},
    cmdclass={'build_py': BuildWithModels},
    zip_safe=False,
    install_requires=lines('requirements'),
    extras_require={extra: lines(f'{extra}_requirements') for extra in EXTRAS},
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['marlearn=marlearn._modidx:d']},
)
