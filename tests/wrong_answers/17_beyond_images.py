"Plausible mistakes, which the checks of lesson 17 must refuse"
import torch

def kept(frames, labels, speakers_count_alike=False, correction=0):
    means = torch.stack([frames[labels == s].mean(0) for s in labels.unique()])
    guesses = means if speakers_count_alike else means[torch.unique(labels, return_inverse=True)[1]]
    return guesses, frames.var(0, correction=correction)

def each_speaker_counts_once(frames, labels):
    guesses, total = kept(frames, labels, speakers_count_alike=True)
    return guesses.var(0, correction=0)/total

def what_is_lost(frames, labels):
    guesses, total = kept(frames, labels)
    return (frames - guesses).var(0, correction=0)/total

def standard_deviations(frames, labels):
    guesses, total = kept(frames, labels)
    return (guesses.var(0, correction=0)/total).sqrt()

def one_number_for_all(frames, labels):
    guesses, total = kept(frames, labels)
    return guesses.var(0, correction=0).sum()/total.sum()

def _write(backbone, head, labels, begun, generator, shift=0, reread=True, start=None):
    (B, n, P), N = begun.shape, backbone.n_tokens
    frames = torch.cat([begun, torch.zeros(B, N - n, P)], dim=1)
    read, order = frames.clone(), torch.arange(N).expand(B, N)
    for k in range(n if start is None else start, N):
        z = backbone(frames if reread else read, labels, order)[:, k - shift]
        frames[:, k] = head.sample(z, generator=generator)
    return frames

def never_reads_what_it_drew(*args): return _write(*args, reread=False)

def z_of_the_frame_before(*args): return _write(*args, shift=1)

def begins_again(*args): return _write(*args, start=0)

def forgets_what_was_given(backbone, head, labels, begun, generator):
    return _write(backbone, head, labels, begun, generator)[:, begun.shape[1]:]

def of_the_first_speaker(backbone, head, labels, begun, generator):
    return _write(backbone, head, torch.zeros_like(labels), begun, generator)

WRONG = {
    'check_variance_kept': [each_speaker_counts_once, what_is_lost, standard_deviations, one_number_for_all],
    'check_finish': [never_reads_what_it_drew, z_of_the_frame_before, begins_again, forgets_what_was_given,
                     of_the_first_speaker],
}
