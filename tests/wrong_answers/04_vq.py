"Plausible mistakes, which the checks of lesson 04 must refuse"
import torch

def just_codes(latents, codes): return codes
def the_wrong_way_round(latents, codes): return codes + (latents - codes).detach()
def both(latents, codes): return latents + codes - latents.detach()

def nan_for_unused(indices, V):
    share = torch.bincount(indices.flatten(), minlength=V)/indices.numel()
    return torch.exp(-(share*share.log()).sum())
def bits_for_nats(indices, V):
    share = torch.bincount(indices.flatten(), minlength=V)/indices.numel()
    return torch.exp(-torch.xlogy(share, share).sum()/torch.tensor(2.).log())
def counts_used(indices, V): return float(len(indices.unique()))

def only_products(latents, codebook): return (latents @ codebook.T).argmax(1)
def farthest(latents, codebook): return torch.cdist(latents, codebook).argmax(1)
def no_half(latents, codebook): return (latents @ codebook.T - (codebook**2).sum(1)).argmax(1)

WRONG = {
    'check_bits': [64*512, 512, 9],
    'check_straight_through': [just_codes, the_wrong_way_round, both],
    'check_perplexity': [nan_for_unused, bits_for_nats, counts_used],
    'check_nearest_codes': [only_products, farthest, no_half],
}
