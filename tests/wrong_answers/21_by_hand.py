"Plausible mistakes, which the checks of lesson 21 must refuse"
from dataclasses import dataclass

RIGHT = ('--preset tiny --data shapes --out runs/flat --train.steps 500 --train.batch-size 16 '
         '--train.flip no --model.head.blocks 3')

@dataclass(frozen=True, kw_only=True)
class Floor:
    pictures:int
    columns:int = 8
    def __post_init__(self):
        if self.columns < 1: raise ValueError(f'columns={self.columns}')
    def run(self): print(f'{self.pictures//self.columns} rows')

@dataclass(kw_only=True)
class Changeable:
    pictures:int
    columns:int = 8
    def __post_init__(self):
        if self.columns < 1: raise ValueError(f'columns={self.columns}')
    def run(self): print(f'{-(-self.pictures//self.columns)} rows')

@dataclass(frozen=True, kw_only=True)
class WhileRunning:
    pictures:int
    columns:int = 8
    def run(self):
        if self.columns < 1: raise ValueError(f'columns={self.columns}')
        print(f'{-(-self.pictures//self.columns)} rows')

@dataclass(frozen=True, kw_only=True)
class WithDefault:
    pictures:int = 24
    columns:int = 8
    def __post_init__(self):
        if self.columns < 1: raise ValueError(f'columns={self.columns}')
    def run(self): print(f'{-(-self.pictures//self.columns)} rows')

class NoFields:
    def run(self): print('3 rows')

def all_of_them(seconds, n_images, encode_speed, train_speed):
    return n_images, int(max(0, seconds - n_images/encode_speed)*train_speed)
def encoding_is_free(seconds, n_images, encode_speed, train_speed):
    seen = int(seconds*train_speed)
    return min(n_images, seen), seen
def half_and_half(seconds, n_images, encode_speed, train_speed):
    return min(n_images, int(seconds/2*encode_speed)), int(seconds/2*train_speed)
def always_once(seconds, n_images, encode_speed, train_speed):
    n = min(n_images, int(seconds/(1/encode_speed + 1/train_speed)))
    return n, n

@dataclass(frozen=True, kw_only=True)
class NotOneColumn:
    pictures:int
    columns:int = 8
    def __post_init__(self):
        if self.columns <= 1: raise ValueError(f'columns={self.columns}')
    def run(self): print(f'{-(-self.pictures//self.columns)} rows')

@dataclass(frozen=True, kw_only=True)
class Returns:
    pictures:int
    columns:int = 8
    def __post_init__(self):
        if self.columns < 1: raise ValueError(f'columns={self.columns}')
    def run(self): return f'{-(-self.pictures//self.columns)} rows'

WRONG = {
    # no preset; options without their part; flipped after all; a preset's field changed besides
    'check_options': [RIGHT.removeprefix('--preset tiny '), RIGHT.replace('--train.', '--'),
                      RIGHT.replace('--model.head', '--head'), RIGHT.replace('--train.flip no', '--train.flip'),
                      RIGHT + ' --train.lr 1e-4'],
    'check_page': [NotOneColumn, Returns, Floor, Changeable, WhileRunning, WithDefault, NoFields],
    'check_share_time': [all_of_them, encoding_is_free, half_and_half, always_once],
}
