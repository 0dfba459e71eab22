"Answers that the checks of lesson 18, processes, must refuse"
WRONG = {
    'check_my_rows': [lambda index, rank, world: index, lambda index, rank, world: index[rank::world]],
    # everyone does all; not in order
    'check_held': [(943e6*16/1e9, 943e6*16/8/1e9), (943e6*20/1e9, 943e6*20/1e9), (943e6*4/1e9, 943e6*4/8/1e9)],
}
