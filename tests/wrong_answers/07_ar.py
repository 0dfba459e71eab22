"Plausible mistakes, which the checks of lesson 07 must refuse"
import math, torch

def no_order(tokens, order): return tokens[:-1], tokens
def shifted_the_other_way(tokens, order): return tokens[order[1:]], tokens[order]
def sees_its_target(tokens, order): return tokens[order], tokens[order]

def times_temperature(logits, T, generator):
    return torch.multinomial((logits*T).softmax(-1), 1, generator=generator).squeeze(-1)
def ignores_it(logits, T, generator):
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
def always_the_best(logits, T, generator): return logits.argmax(-1)

WRONG = {'check_floor': [math.log(12), math.log(16)/12, math.log2(12)/16],
         'check_inputs_and_targets': [no_order, shifted_the_other_way, sees_its_target],
         'check_mean_answer': [1.0, 0.8, 0.0],
         'check_draw_code': [times_temperature, ignores_it, always_the_best]}
