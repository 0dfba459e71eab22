"Plausible mistakes, which the checks of lesson 02 must refuse"

def one_number(images): return (images.abs() > 1).float().mean()
def edges_too(images): return (images.abs() >= 1).float().flatten(1).mean(1)
def only_white(images): return (images > 1).float().flatten(1).mean(1)

def columns_first(images, mask):
    B, C, H, W = images.shape
    side, out = round(mask.shape[1]**.5), images.clone()
    for b in range(B):
        for n in range(mask.shape[1]):
            row, col = n % side, n//side
            if mask[b, n]:
                out[b, :, row*H//side:(row + 1)*H//side, col*W//side:(col + 1)*W//side] = 0.55
    return out

def covers_the_known(images, mask):
    from marlearn.plot import cover_hidden
    return cover_hidden(images, ~mask)

WRONG = {'check_clipped_share': [one_number, edges_too, only_white], 'check_cover': [columns_first, covers_the_known],
         'check_lying_figure': ['a', 'c', 'd']}
