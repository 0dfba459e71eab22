"""Compare small KL tokenizers, and train the one that ships in data/pretrained/tokenizer. From the repository's root:

    python scripts/ship_tokenizer.py networks        the network of the perceptual loss, and a second judge
    python scripts/ship_tokenizer.py compare         all candidates, a few minutes each: results/tokenizers.json
    python scripts/ship_tokenizer.py ship            the chosen one, half an hour: data/pretrained/tokenizer

Everything goes on where it was stopped; minutes are those of one CPU core. The classifier that ships with marlearn
judges and is part of no loss. The critic, whose features the perceptual term compares, and the second judge are other
networks, trained apart from it and from each other."""
import argparse, json, math, time
from dataclasses import asdict, dataclass
from pathlib import Path
import numpy as np, torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from marlearn.data import join_data, load_shapes
from marlearn.engine.adversarial import Adversary, PatchDiscriminator
from marlearn.engine.evaluation import cifar10_classifier
from marlearn.engine.hardware import machine
from marlearn.engine.pictures import load_data
from marlearn.files import atomic_file, save_weights
from marlearn.metrics import as_saved, Statistics
from marlearn.tokenizers import KLTokenizer, save_tokenizer
from marlearn.vae import latent_scale, psnr, ssim, VAE, vae_loss, VAEConfig

@dataclass(frozen=True)
class Candidate:
    "What is tried: all have 16 tokens of a 32x32 picture, so that one masked model can draw them"
    channels:int = 10 # of the latents
    mults:tuple = (1, 2, 4) # one halving for each but the first
    patch:int = 2 # latent cells per token side
    perceptual:float = 0.5 # weight
    adversarial:float = 0.0 # weight, in the second half of the training
    batch_size:int = 16
    lr:float = 1.5e-3
    kl_weight:float = 5e-3

    def config(self):
        return VAEConfig(width=16, mults=self.mults, latent_channels=self.channels, embed_dim=self.channels)

CANDIDATES = { # name -> candidate; the first is what shipped with marlearn 0.1
    '6 channels, L1': Candidate(channels=6, perceptual=0),
    '6 channels': Candidate(channels=6),
    '8 channels': Candidate(channels=8),
    '10 channels': Candidate(),
    '12 channels': Candidate(channels=12),
    '10 channels, L1': Candidate(perceptual=0),
    '10 channels, perceptual 1': Candidate(perceptual=1.0),
    '10 channels, adversarial': Candidate(adversarial=0.1),
    'stride 2, 3 channels': Candidate(channels=3, mults=(1, 2), patch=4),
}
CHOSEN = '10 channels'

# Networks that look at pictures

def conv(i, o): return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())

class Critic(nn.Module):
    "Pairs of 3x3 convolutions with halvings between, as in VGG; the perceptual term compares the features of each pair"
    def __init__(self, widths=(32, 64, 128), n_classes=10):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(conv(i, o), conv(o, o)) for i, o in zip((3, *widths), widths))
        self.out = nn.Linear(widths[-1], n_classes)

    def stage_features(self, x):
        found = []
        for k, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if k else x)
            found.append(x)
        return found

    def forward(self, x): return self.out(F.max_pool2d(self.stage_features(x)[-1], 2).mean((2, 3)))

    def distance(self, a, b):
        "Mean squared distance of features that have unit length at each place (LPIPS with unit weights)"
        with torch.autocast('cpu', torch.bfloat16): pairs = zip(self.stage_features(a), self.stage_features(b))
        parts = [(F.normalize(u.float(), dim=1, eps=1e-6) - F.normalize(v.float(), dim=1, eps=1e-6)) for u, v in pairs]
        return torch.stack([part.square().sum(1).mean() for part in parts]).mean()

class Residual(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.b, self.norm_b = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.short = nn.Conv2d(i, o, 1, stride, bias=False) if i != o else nn.Identity()

    def forward(self, x): return F.relu(self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))) + self.short(x))

class SecondJudge(nn.Module):
    "A small residual network with mean pooling: another family than the shipped classifier"
    def __init__(self, widths=(24, 48, 96), n_classes=10):
        super().__init__()
        a, b, c = widths
        self.blocks = nn.Sequential(conv(3, a), Residual(a, a, 1), Residual(a, b, 2), Residual(b, b, 1),
                                    Residual(b, c, 2), Residual(c, c, 1))
        self.out = nn.Linear(c, n_classes)

    def features(self, x): return self.blocks(x).mean((2, 3))
    def forward(self, x): return self.out(self.features(x))

NETWORKS = {'critic': (Critic, 11), 'second judge': (SecondJudge, 22)} # and the seed

def weights_of(work, name): return work/f'{name.replace(" ", "-")}.safetensors'

def train_network(name, work, minutes):
    "A classifier of CIFAR-10 in a few minutes: SGD, a triangle of the rate, mirror images, shifts by three pixels"
    kind, seed = NETWORKS[name]
    torch.manual_seed(seed)
    net, generator = kind().to(memory_format=torch.channels_last), torch.Generator().manual_seed(seed)
    data, test = load_data('cifar10'), load_data('cifar10', 'test')
    labels, batch_size, step = torch.from_numpy(np.array(data.labels)), 128, 0
    opt = torch.optim.SGD(net.parameters(), lr=1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    start, share = time.process_time(), 0.0
    with tqdm(total=100, desc=f'training the {name}', unit='%') as bar:
        while share < 1:
            for group in opt.param_groups:
                group['lr'] = 0.2*min(share/0.15 + 1e-3, max(1e-3, (1 - share)/0.85))
            index = torch.randint(len(labels), (batch_size,), generator=generator)
            x, _ = data.batch(index.numpy(), flip=(torch.rand(batch_size, generator=generator) < 0.5).numpy())
            i, j = torch.randint(7, (2,), generator=generator).tolist()
            x = F.pad(x, (3,)*4, mode='reflect')[:, :, i:i + 32, j:j + 32]
            with torch.autocast('cpu', torch.bfloat16):
                logits = net(x.contiguous(memory_format=torch.channels_last)).float()
            loss = F.cross_entropy(logits, labels[index], label_smoothing=0.1)
            opt.zero_grad()
            loss.backward()
            opt.step()
            step, share = step + 1, (time.process_time() - start)/60/minutes
            bar.update(min(100, round(100*share)) - bar.n)
    net.eval()
    with torch.no_grad():
        guesses = torch.cat([net(test.batch(part)[0]).argmax(1) for part in np.array_split(np.arange(len(test)), 20)])
    accuracy = (guesses == torch.from_numpy(np.array(test.labels))).float().mean().item()
    save_weights(net, weights_of(work, name), None)
    about = {'pictures seen': step*batch_size, 'seed': seed, 'minutes': minutes, 'test accuracy': accuracy}
    write(work/f'{name.replace(" ", "-")}.json', about)
    return about

def network(name, work):
    "As trained, and not to be changed"
    path = weights_of(work, name)
    if not path.exists(): raise SystemExit(f'{path} is missing: run `python scripts/ship_tokenizer.py networks` first')
    net = NETWORKS[name][0]()
    net.load_state_dict(load_file(path))
    return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)

# Autoencoders

def write(path, result):
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as new: new.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')

def train_vae(name, candidate, work, minutes, save_every=1000):
    "Adam with a cosine over the minutes; what is done lies in `work` every `save_every` steps"
    torch.manual_seed(0)
    vae = VAE(candidate.config()).to(memory_format=torch.channels_last).train()
    critic = network('critic', work) if candidate.perceptual else None
    data = join_data(load_data('cifar10'), load_shapes(n=8000))
    opt = torch.optim.Adam(vae.parameters(), lr=candidate.lr, betas=(0.9, 0.99))
    judge = PatchDiscriminator(3, 32, 2).to(memory_format=torch.channels_last)
    adversary = Adversary(judge, weight=candidate.adversarial, lr=2e-4) if candidate.adversarial else None
    terms = {'perceptual': (candidate.perceptual, critic.distance)} if critic else {}
    state, step, spent = work/f'{name.replace(" ", "-").replace(",", "")}-{minutes:g}.pt', 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        vae.load_state_dict(saved['vae'])
        opt.load_state_dict(saved['opt'])
        step, spent = saved['step'], saved['seconds']
        if adversary:
            judge.load_state_dict(saved['judge'])
            adversary.opt.load_state_dict(saved['judge_opt'])

    def save():
        saved = {'vae': vae.state_dict(), 'opt': opt.state_dict(), 'step': step, 'seconds': spent}
        if adversary: saved |= {'judge': judge.state_dict(), 'judge_opt': adversary.opt.state_dict()}
        with atomic_file(state) as new: torch.save(saved, new)

    clock, before, recent = time.process_time(), spent, []
    with tqdm(total=round(60*minutes), initial=round(spent), desc=name, unit='s') as bar:
        while (share := spent/60/minutes) < 1:
            for group in opt.param_groups:
                group['lr'] = candidate.lr*min(share/0.03 + 0.01, 1)*max(0.01, 0.5*(1 + math.cos(math.pi*share)))
            rng, generator = np.random.default_rng([0, step]), torch.Generator().manual_seed(step)
            index = rng.integers(len(data), size=candidate.batch_size)
            images, _ = data.batch(index, flip=rng.random(candidate.batch_size) < 0.5)
            images = images.contiguous(memory_format=torch.channels_last)
            recon, posterior = vae(images, generator)
            parts = vae_loss(images, recon, posterior, candidate.kl_weight, terms)
            if adversary and share > 0.5: parts = adversary.add_to_loss(parts, recon, vae.decoder[-1].weight)
            opt.zero_grad()
            parts['loss'].backward()
            nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            opt.step()
            if adversary and share > 0.45: adversary.learn(images, recon)
            step, spent = step + 1, before + time.process_time() - clock
            recent.append({k: v.item() for k, v in parts.items()})
            if step % 100 == 0:
                bar.set_postfix({k: f'{np.mean([r[k] for r in recent if k in r]):.4f}' for k in recent[-1]})
                recent.clear()
            if step % save_every == 0: save()
            bar.update(min(bar.total, round(spent)) - bar.n)
    save()
    return vae.eval(), {'steps': step, 'pictures seen': step*candidate.batch_size, 'CPU seconds': round(spent)}

def tokenizer_of(vae, candidate):
    cifar = load_data('cifar10')
    scale = latent_scale(vae, cifar.batch(range(0, len(cifar), 50))[0], torch.Generator().manual_seed(1))
    return KLTokenizer(vae, scale=scale, patch=candidate.patch)

@torch.no_grad()
def judged(tokenizer, work, n=2000):
    "Sharpness and distances of copies, and what decoding costs"
    judges = {'distance of copies': cifar10_classifier(),
              'the same, second judge': network('second judge', work)}
    def features(judge, x):
        return judge(x)['features'] if name == 'distance of copies' else judge.features(x)
    test, shapes, result = load_data('cifar10', 'test'), load_shapes('test'), {}
    images, labels = test.batch(np.linspace(0, len(test) - 1, min(n, len(test))).round().astype(int))
    copies = torch.cat([as_saved(tokenizer.reconstruct(part)) for part in images.split(100)])
    for name, judge in judges.items():
        real, copied = (Statistics().update(torch.cat([features(judge, p) for p in x.split(100)]))
                        for x in (images, copies))
        result[name] = real.distance(copied)
    for name, x in (('recognised, real', images), ('recognised, copies', copies)):
        guesses = torch.cat([judges['distance of copies'](p)['probabilities'].argmax(1) for p in x.split(100)])
        result[name] = (guesses == labels).float().mean().item()
    result |= {'psnr': psnr(images, copies).mean().item(), 'ssim': ssim(images, copies).mean().item()}
    drawn, _ = shapes.batch(range(0, len(shapes), max(1, len(shapes)//1000)))
    result['psnr of shapes'] = psnr(drawn, as_saved(tokenizer.reconstruct(drawn))).mean().item()
    with FlopCounterMode(display=False) as counter: tokenizer.reconstruct(images[:1])
    N, P = tokenizer.token_shape(32)
    return result | {'tokens': N, 'numbers per token': P, 'scale': tokenizer.scale, 'pictures': len(images),
                     'MFLOPs, encode and decode': counter.get_total_flops()/1e6,
                     'parameters': sum(p.numel() for p in tokenizer.parameters())}

def compare(names, work, minutes, out):
    "A row for each candidate; rows that are there stay"
    def read_rows(): return json.loads(out.read_text(encoding='utf-8'))['rows'] if out.exists() else []
    about = {n: json.loads((work/f'{n.replace(" ", "-")}.json').read_text(encoding='utf-8')) for n in NETWORKS}
    for name in names:
        if any(row['candidate'] == name and row['minutes'] == minutes for row in read_rows()): continue
        vae, training = train_vae(name, CANDIDATES[name], work, minutes)
        row = {'candidate': name, 'minutes': minutes} | asdict(CANDIDATES[name]) | training
        row |= judged(tokenizer_of(vae, CANDIDATES[name]), work)
        write(out, {'what': 'KL tokenizers of CIFAR-10 and shapes, the same minutes of training on one core',
                    'command': 'python scripts/ship_tokenizer.py compare', 'machine': machine(), 'networks': about,
                    'rows': [*read_rows(), row]})           # read again: a second process may have written meanwhile
        print(json.dumps(row, indent=1))

def ship(work, minutes, out, n=10_000):
    candidate = CANDIDATES[CHOSEN]
    vae, training = train_vae(CHOSEN, candidate, work, minutes)
    tokenizer = tokenizer_of(vae, candidate)
    save_tokenizer(tokenizer, out)
    report = {'command': f'python scripts/ship_tokenizer.py ship --minutes {minutes:g}', 'settings': asdict(candidate),
              'train_pictures': 'CIFAR-10 train + 8000 shapes', 'machine': machine()} | training
    report |= judged(tokenizer, work, n)
    write(out/'report.json', report)
    print(json.dumps(report, indent=1))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['networks', 'compare', 'ship'])
    parser.add_argument('names', nargs='*', help=f'candidates to compare (default: all): {"; ".join(CANDIDATES)}')
    parser.add_argument('--minutes', type=float, help='of training (default: 4, 5 or 30)')
    parser.add_argument('--work', type=Path, default=Path('runs/tokenizers'), help='for what is not finished')
    parser.add_argument('--out', type=Path, help='where the result goes')
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    if unknown := [name for name in args.names if name not in CANDIDATES]: parser.error(f'no candidate {unknown[0]!r}')
    if args.what == 'networks':
        for name in NETWORKS: print(name, train_network(name, args.work, args.minutes or 4))
    elif args.what == 'compare':
        compare(args.names or CANDIDATES, args.work, args.minutes or 5,
                args.out or Path('benchmarks/results/tokenizers.json'))
    else:
        ship(args.work, args.minutes or 30, args.out or Path('data/pretrained/tokenizer'))
