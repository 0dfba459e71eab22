"Plausible mistakes, which the checks of lesson 13 must refuse"
import torch

def follow(start, weights, decay_of):
    average, seen = start, []
    for step, weight in enumerate(weights):
        d = decay_of(step)
        average = d*average + (1 - d)*weight
        seen.append(average)
    return seen

def no_warm_up(start, weights, highest): return follow(start, weights, lambda step: highest)
def roles_swapped(start, weights, highest):
    return follow(start, weights, lambda step: 1 - min(highest, (1 + step)/(10 + step)))
def from_zero(start, weights, highest):
    return follow(torch.zeros_like(start), weights, lambda step: min(highest, (1 + step)/(10 + step)))
def one_tensor_for_all(start, weights, highest):
    average, seen = start.clone(), []
    for step, weight in enumerate(weights):
        average.lerp_(weight, 1 - min(highest, (1 + step)/(10 + step)))
        seen.append(average)
    return seen

def each_by_itself(gradients, most): return [g*min(1, most/g.norm()) for g in gradients]
def numbers_not_norms(gradients, most): return [g.clamp(-most, most) for g in gradients]
def lengthens_too(gradients, most):
    norm = sum((g**2).sum() for g in gradients)**.5
    return [g*most/norm for g in gradients]

def shuffled(n, seed): return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
def new_each_step(n, B, step, seed): return shuffled(n, seed*1000 + step)[:B]
def one_order_for_ever(n, B, step, seed):
    k = step % (n//B)
    return shuffled(n, seed)[k*B:(k + 1)*B]
def global_chance(n, B, step, seed): return torch.randperm(n)[:B]

def plain_mean(gradients, rows): return sum(gradients)/len(gradients)
def only_summed(gradients, rows): return sum(n*g for n, g in zip(rows, gradients))
def over_processes(gradients, rows): return sum(n*g for n, g in zip(rows, gradients))/len(gradients)

def momentum(w, velocity, first, steps, gradient):
    for step in range(first, steps):
        velocity = 0.9*velocity + gradient(w, step)
        w = w - 0.1*velocity
    return {'w': w, 'velocity': velocity, 'step': steps}

def forgets_velocity(w, steps, gradient, saved=None):
    if saved: return momentum(saved['w'], torch.zeros_like(w), saved['step'], steps, gradient)
    return momentum(w, torch.zeros_like(w), 0, steps, gradient)
def begins_at_step_0(w, steps, gradient, saved=None):
    if saved: return momentum(saved['w'], saved['velocity'], 0, steps, gradient)
    return momentum(w, torch.zeros_like(w), 0, steps, gradient)
def leaves_one_out(w, steps, gradient, saved=None):
    if saved: return momentum(saved['w'], saved['velocity'], saved['step'] + 1, steps, gradient)
    return momentum(w, torch.zeros_like(w), 0, steps, gradient)

def in_place(gradients, most):
    norm = sum((g**2).sum() for g in gradients)**.5
    for g in gradients:
        g *= min(1, most/norm)
    return gradients

def seed_plus_epoch(n, B, step, seed): # seed 4 begins as seed 3 goes on
    epoch, k = divmod(step, n//B)
    return shuffled(n, seed + epoch)[k*B:(k + 1)*B]

WRONG = {
    'check_averages': [no_warm_up, roles_swapped, from_zero, one_tensor_for_all],
    'check_clip': [in_place, each_by_itself, numbers_not_norms, lengthens_too],
    'check_rows_of_step': [seed_plus_epoch, new_each_step, one_order_for_ever, global_chance],
    'check_shared': [plain_mean, only_summed, over_processes],
    'check_train_resumed': [forgets_velocity, begins_at_step_0, leaves_one_out],
}
