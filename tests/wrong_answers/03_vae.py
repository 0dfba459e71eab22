"Plausible mistakes, which the checks of lesson 03 must refuse"
import math

def error(images, recon): return (images - recon).abs().mean()
def kl(mean, logvar): return 0.5*(mean**2 + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()

def logvar_as_std(images, mean, logvar, noise, decode, price):
    return error(images, decode(mean + logvar.exp()*noise)) + price*kl(mean, logvar)/images[0].numel()
def no_draw(images, mean, logvar, noise, decode, price):
    return error(images, decode(mean)) + price*kl(mean, logvar)/images[0].numel()
def kl_per_latent(images, mean, logvar, noise, decode, price):
    latents = mean + (0.5*logvar).exp()*noise
    return error(images, decode(latents)) + price*0.5*(mean**2 + logvar.exp() - 1 - logvar).mean()
def kl_of_the_batch(images, mean, logvar, noise, decode, price):
    latents = mean + (0.5*logvar).exp()*noise
    return error(images, decode(latents)) + price*len(images)*kl(mean, logvar)/images[0].numel()
def cut_off(images, mean, logvar, noise, decode, price):
    latents = (mean + (0.5*logvar).exp()*noise).detach()
    return error(images, decode(latents)) + price*kl(mean, logvar)/images[0].numel()

def per_place(mean, logvar, below): return 0.5*(mean**2 + logvar.exp() - 1 - logvar).mean((0, 2, 3)) < below
def all_pictures(mean, logvar, below): return 0.5*(mean**2 + logvar.exp() - 1 - logvar).sum((0, 2, 3)) < below
def silent_in_every_picture(mean, logvar, below):
    return (0.5*(mean**2 + logvar.exp() - 1 - logvar).sum((2, 3)) < below).all(0)
def means_only(mean, logvar, below): return 0.5*(mean**2).sum((2, 3)).mean(0) < below
def std_for_variance(mean, logvar, below):
    return 0.5*(mean**2 + (0.5*logvar).exp() - 1 - logvar).sum((2, 3)).mean(0) < below

WRONG = {
    'check_certainty': [384*math.log(4), 384, math.log(2), -266.2],
    'check_loss_from': [logvar_as_std, no_draw, kl_per_latent, kl_of_the_batch, cut_off],
    'check_silent': [per_place, all_pictures, means_only, std_for_variance, silent_in_every_picture],
}
