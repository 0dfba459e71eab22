"What figures, films and sliders promise beyond what lesson 02 shows"
import warnings
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pytest, torch
from PIL import Image
from marlearn.data import load_shapes
from marlearn.plot import cover_hidden, explore, image_grid, save_animation, show_curves, show_images

@pytest.fixture(scope='module')
def images(): return load_shapes('test', n=20).batch(range(20))[0]

@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')

@pytest.mark.parametrize('n, ncols, names, message', [
    (6, 10, ['above', 'below'], '2 row_names for 1 row: 6 pictures'), (8, 4, ['above'], '1 row_names for 2 rows'),
    (8, 5, ['above', 'below'], 'must be full')])
def test_row_names_fit_the_rows(images, n, ncols, names, message):
    with pytest.raises(ValueError, match=message): show_images(images[:n], ncols, row_names=names)

def test_a_single_column_leaves_room_for_its_names(images):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        show_images(images[:2], ncols=1, row_names=['a name as long', 'as names can be']).canvas.draw()

def test_one_channel_is_shown_in_greys(images):
    fig = show_images(images[:1, :1])
    fig.canvas.draw()
    pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3]
    assert (pixels == pixels[..., :1]).all() and len(np.unique(pixels)) > 10

def test_curves_have_their_own_dash_name_and_places():
    lines = show_curves({str(i): [i, i] for i in range(4)}, x=[10, 20]).axes[0].lines
    assert len({line.get_linestyle() for line in lines}) == 4
    assert [line.get_label() for line in lines] == list('0123')
    assert list(lines[2].get_xdata()) == [10, 20]

def test_one_curve_has_no_legend_and_counts_from_0():
    ax = show_curves({'only one': [3, 2, 1]}).axes[0]
    assert ax.get_legend() is None and list(ax.lines[0].get_xdata()) == [0, 1, 2]

@pytest.mark.parametrize('channels', [1, 3])
def test_a_film_loops_and_its_last_frame_stays(images, channels, tmp_path):
    frames = [image_grid(images[i:i+1, :channels]) for i in range(3)]
    save_animation(frames, tmp_path/'film.gif', ms=200, zoom=3)
    with Image.open(tmp_path/'film.gif') as film:
        assert film.n_frames == 3 and film.info['loop'] == 0
        assert film.size == (3*frames[0].shape[1], 3*frames[0].shape[0])
        durations = []
        for i in range(3):
            film.seek(i)
            durations.append(film.info['duration'])
    assert durations == [200, 200, 1000]

def test_a_mask_must_tile_the_pictures(images):
    with pytest.raises(ValueError, match='15 tokens do not tile'):
        cover_hidden(images, torch.zeros(20, 15, dtype=torch.bool))
    with pytest.raises(ValueError, match='9 tokens do not tile'):
        cover_hidden(images, torch.zeros(20, 9, dtype=torch.bool))

def test_sliders_give_their_values_when_asked():
    notes = []
    widget = explore(lambda **values: notes.append(values), k=(0, 10, 2), scale=(1., 2., .5), kind=['a', 'b'])
    widget.children[0].value = 8
    assert not notes
    widget.update()
    assert notes == [{'k': 8, 'scale': 1.5, 'kind': 'a'}]

def test_sliders_need_no_button_where_drawing_is_quick():
    notes = []
    widget = explore(lambda **values: notes.append(values), auto=True, k=(0, 10, 2))
    widget.update()
    widget.children[0].value = 8
    assert notes[-1] == {'k': 8}
