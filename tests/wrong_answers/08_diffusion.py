"Plausible mistakes, which the checks of lesson 08 must refuse"
from marlearn.diffusion import posterior_mean, predict_x0

def no_roots(x0, ab, eps): return ab[:, None]*x0 + (1 - ab)[:, None]*eps
def roles_swapped(x0, ab, eps): return (1 - ab).sqrt()[:, None]*x0 + ab.sqrt()[:, None]*eps
def one_minus_root(x0, ab, eps): return ab.sqrt()[:, None]*x0 + (1 - ab.sqrt())[:, None]*eps

def _mean(xt, t, eps, schedule): return posterior_mean(predict_x0(xt, t, eps, schedule), xt, t, schedule)
def scales_all(xt, t, eps, std, noise, schedule, T): return T*(_mean(xt, t, eps, schedule) + std*noise)
def noise_at_the_end(xt, t, eps, std, noise, schedule, T): return _mean(xt, t, eps, schedule) + T*std*noise
def never_noise(xt, t, eps, std, noise, schedule, T): return _mean(xt, t, eps, schedule)
def straight_to_x0(xt, t, eps, std, noise, schedule, T):
    return predict_x0(xt, t, eps, schedule) + T*std*noise*(t > 0).unsqueeze(1)

WRONG = {
    'check_noisy': [no_roots, roles_swapped, one_minus_root],
    'check_perfect_x0': [1, -1, 0.1],
    'check_step_back': [scales_all, noise_at_the_end, never_noise, straight_to_x0],
    'check_steps_knob': ['a', 'c', 'B'],
}
