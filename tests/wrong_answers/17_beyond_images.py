"Plausible mistakes, which the checks of lesson 17 must refuse"
import torch

def padded_from(sequences, statistics, scaled_padding=False):
    "Tokens by the given centre and scale"
    lengths = torch.tensor([len(s) for s in sequences])
    raw = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    centre, scale = statistics(sequences, raw)
    real = (torch.arange(raw.shape[1]) < lengths.unsqueeze(1)).unsqueeze(2)
    tokens = (raw - centre)/scale
    return (tokens if scaled_padding else torch.where(real, tokens, 0.0)), lengths, centre, scale

def of_frames(sequences, raw):
    frames = torch.cat(sequences)
    return frames.mean(0), frames.std(0)

def padding_counts_as_data(sequences):
    return padded_from(sequences, lambda s, raw: (raw.flatten(0, 1).mean(0), raw.flatten(0, 1).std(0)))

def padding_is_scaled_too(sequences): return padded_from(sequences, of_frames, scaled_padding=True)

def one_scale_for_all(sequences):
    return padded_from(sequences, lambda s, raw: (torch.cat(s).mean(0), torch.cat(s).std().expand(raw.shape[2])))

def every_sequence_counts_once(sequences):
    return padded_from(sequences, lambda s, raw: (torch.stack([x.mean(0) for x in s]).mean(0), torch.cat(s).std(0)))

def all_the_same_length(sequences):
    tokens, lengths, centre, scale = padded_from(sequences, of_frames)
    return tokens, torch.full_like(lengths, tokens.shape[1]), centre, scale

def mean_of_everything(loss, lengths): return loss.mean()

def mean_of_means(loss, lengths):
    return torch.stack([row[:n].mean() for row, n in zip(loss, lengths.tolist())]).mean()

def divided_by_all(loss, lengths): return (loss*(torch.arange(loss.shape[1]) < lengths.unsqueeze(1))).mean()

def one_too_many(loss, lengths): return loss[torch.arange(loss.shape[1]) <= lengths.unsqueeze(1)].mean()

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

def lengths_that_are_floats(sequences):
    tokens, lengths, centre, scale = padded_from(sequences, of_frames)
    return tokens, lengths.float(), centre, scale

WRONG = {
    'check_prepare': [padding_counts_as_data, padding_is_scaled_too, one_scale_for_all, every_sequence_counts_once,
                      all_the_same_length, lengths_that_are_floats],
    'check_real_mean': [mean_of_everything, mean_of_means, divided_by_all, one_too_many],
    'check_variance_kept': [each_speaker_counts_once, what_is_lost, standard_deviations, one_number_for_all],
    'check_finish': [never_reads_what_it_drew, z_of_the_frame_before, begins_again, forgets_what_was_given,
                     of_the_first_speaker],
}
