"Plausible mistakes, which the checks of lesson 01 must refuse"
import numpy as np

def by_128(v): return v.float()/128 - 1
def overflows(v): return v*2/255 - 1
def half(v): return (v.float()/127.5 - 1).half()

def upside_down(images, flip):
    out = images.clone()
    out[flip] = images[flip].flip(-2)
    return out

def all_of_them(images, flip): return images.flip(-1)

def in_place(images, flip):
    images[flip] = images[flip].flip(-1)
    return images

def stadium_box(x, y): return np.maximum(np.abs(x) - .9, np.abs(y) - .4)
def endless(x, y): return np.abs(y) - .4
def no_radius(x, y): return np.hypot(x - np.clip(x, -.5, .5), y)

WRONG = {'check_to_float': [by_128, overflows, half], 'check_imagenet_gigabytes': [1007, 0.25, 84],
         'check_mirror_some': [upside_down, all_of_them, in_place], 'check_pill': [stadium_box, endless, no_radius]}
