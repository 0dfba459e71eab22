"Plausible mistakes, which the checks of lesson 15 must refuse"
import math, torch

def rounds_down(epochs, n, B): return int(epochs*n/B)
def rounds_each_epoch_up(epochs, n, B): return math.ceil(n/B)*epochs

def gradients_pile_up(model, tokens, labels, opt, generator, clip):
    model.loss(tokens, labels, generator=generator)['loss'].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    opt.step()

def clips_too_late(model, tokens, labels, opt, generator, clip):
    opt.zero_grad()
    model.loss(tokens, labels, generator=generator)['loss'].backward()
    opt.step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)

def never_updates(model, tokens, labels, opt, generator, clip):
    opt.zero_grad()
    model.loss(tokens, labels, generator=generator)['loss'].backward()

def judged_by_themselves(features, labels, real_features, real_labels):
    centres = torch.stack([features[labels == c].mean(0) for c in labels.unique()])
    return (torch.cdist(features, centres).argmin(1) == labels).float().mean()

def judges_the_real_ones(features, labels, real_features, real_labels):
    centres = torch.stack([real_features[real_labels == c].mean(0) for c in real_labels.unique()])
    return (torch.cdist(real_features, centres).argmin(1) == real_labels).float().mean()

def sure(a, b): return min(b) > max(a)
def mean(stage): return sum(stage)/len(stage)
def never_mind_the_scatter(chain):
    steps = range(len(chain) - 1)
    return max(steps, key=lambda k: mean(chain[k + 1]) - mean(chain[k]))
def largest_factor(chain):
    steps = [k for k in range(len(chain) - 1) if sure(chain[k], chain[k + 1])]
    return max(steps, key=lambda k: mean(chain[k + 1])/mean(chain[k]), default=None)
def downwards_too(chain):
    steps = [k for k in range(len(chain) - 1) if sure(chain[k], chain[k + 1]) or sure(chain[k + 1], chain[k])]
    return max(steps, key=lambda k: abs(mean(chain[k + 1]) - mean(chain[k])), default=None)

def centres_of_both(features, labels, real_features, real_labels):
    both, of_both = torch.cat([features, real_features]), torch.cat([labels, real_labels])
    centres = torch.stack([both[of_both == c].mean(0) for c in of_both.unique()])
    return (torch.cdist(features, centres).argmin(1) == labels).float().mean()
def classes_asked_for(features, labels, real_features, real_labels): # counted anew where one is missing
    centres = torch.stack([real_features[real_labels == c].mean(0) for c in labels.unique()])
    return (torch.cdist(features, centres).argmin(1) == labels).float().mean()

def gap_of_extremes(chain):
    steps = [k for k in range(len(chain) - 1) if sure(chain[k], chain[k + 1])]
    return max(steps, key=lambda k: min(chain[k + 1]) - max(chain[k]), default=None)
def sums_not_means(chain):
    steps = [k for k in range(len(chain) - 1) if sure(chain[k], chain[k + 1])]
    return max(steps, key=lambda k: sum(chain[k + 1]) - sum(chain[k]), default=None)
def touching_is_above(chain):
    steps = [k for k in range(len(chain) - 1) if min(chain[k + 1]) >= max(chain[k])]
    return max(steps, key=lambda k: mean(chain[k + 1]) - mean(chain[k]), default=None)

WRONG = {
    'check_steps_for': [rounds_down, rounds_each_epoch_up],
    'check_my_step': [gradients_pile_up, clips_too_late, never_updates],
    'check_recognised_share': [centres_of_both, classes_asked_for, judged_by_themselves, judges_the_real_ones],
    'check_next_part': [gap_of_extremes, sums_not_means, touching_is_above,
                        never_mind_the_scatter, largest_factor, downwards_too],
}
