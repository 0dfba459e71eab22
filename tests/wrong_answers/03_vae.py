"Plausible mistakes, which the checks of lesson 03 must refuse"

def logvar_as_std(mean, logvar, noise): return mean + logvar.exp()*noise
def cut_off(mean, logvar, noise): return (mean + (0.5*logvar).exp()*noise).detach()
def variance_twice(mean, logvar, noise): return mean + (2*logvar).exp()*noise

def std_for_variance(mean, logvar): return 0.5*(mean**2 + (0.5*logvar).exp() - 1 - logvar).flatten(1).sum(1)
def no_half(mean, logvar): return (mean**2 + logvar.exp() - 1 - logvar).flatten(1).sum(1)
def averaged(mean, logvar): return 0.5*(mean**2 + logvar.exp() - 1 - logvar).flatten(1).mean(1)

WRONG = {
    'check_fewer_numbers': [16, 256, 4096],
    'check_draw': [logvar_as_std, cut_off, variance_twice],
    'check_price': [std_for_variance, no_half, averaged],
    'check_too_high': ['a', 'c', 1],
}
