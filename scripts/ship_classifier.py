r"""Train the CIFAR-10 classifier that ships in data/pretrained/classifier, write its result file, and measure its
features of CIFAR-10. From the repository's root; each command goes on from where the one before ended:

    python scripts/ship_classifier.py --out runs/first
    python scripts/ship_classifier.py --start runs/first --epochs 4 --peak-lr 0.3 --end 0.01 --seed 1 --minutes 24 \
        --out runs/second
    python scripts/ship_classifier.py --start runs/second --epochs 6 --peak-lr 0.35 --end 0.05 --ema 0.99 --crop 3 \
        --seed 2"""
import argparse, copy, json, math, platform, time
from pathlib import Path
import numpy as np, torch
from torch.nn import functional as F
from marlearn.engine.evaluation import cifar10_classifier, extract, save_statistics, SmallClassifier
from marlearn.engine.pictures import load_data
from marlearn.files import atomic_folder, load_weights, save_weights
from marlearn.metrics import Statistics

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--epochs', type=float, default=9)
parser.add_argument('--minutes', type=float, default=math.inf,
                    help='the schedule is shortened so that training ends by then')
parser.add_argument('--peak-lr', type=float, default=0.75)
parser.add_argument('--end', type=float, default=0.04, help='last learning rate, as a share of the peak')
parser.add_argument('--ema', type=float, default=0.97)
parser.add_argument('--crop', type=int, default=2, help='pixels that a picture is moved by, at most')
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--start', type=Path, help='folder of an earlier run: start from its weights')
parser.add_argument('--statistics', action='store_true',
                    help='do not train: only measure the features of CIFAR-10 again')
parser.add_argument('--widths', type=int, nargs=3, default=(32, 128, 128))
parser.add_argument('--threads', type=int, default=1)
parser.add_argument('--limit', type=int, default=50_000, help='training pictures; fewer only to try the script')
parser.add_argument('--out', type=Path, default=Path('data/pretrained/classifier'))
parser.add_argument('--measure', action='store_true', help='do not train: only measure the accuracy again')
args = parser.parse_args()

def write_statistics(folder):
    "Mean and covariance of the features of CIFAR-10's two splits"
    extractor = cifar10_classifier(folder)
    for split in ('train', 'test'):
        features = extract(extractor, load_data('cifar10', split))['features']
        statistics = Statistics(name=f'cifar10-{split}').update(features)
        save_statistics(statistics, folder/f'cifar10-{split}.safetensors', torch.float32)

@torch.no_grad()
def measure(folder):
    "Accuracy on all test pictures with the weights as stored: picture and mirror image averaged, and one look only"
    config, test = json.loads((folder/'config.json').read_text(encoding='utf-8')), load_data('cifar10', 'test')
    net = SmallClassifier(config['widths'], config['n_classes'])
    load_weights(net, folder/'classifier.safetensors')
    net.eval().to(memory_format=torch.channels_last)
    labels, both, one = torch.from_numpy(np.array(test.labels)), [], []
    for index in np.array_split(np.arange(len(test)), max(1, len(test)//500)):
        x = test.batch(index)[0].contiguous(memory_format=torch.channels_last)
        both.append(net(x).argmax(1))
        one.append(net.logits(net.features_of_one_view(x)).argmax(1))
    both, one = ((torch.cat(guesses) == labels).double() for guesses in (both, one))
    return {'test_pictures': len(test), 'test accuracy, float16 weights as shipped': both.mean().item(),
            'the same, without the look at the mirror image': one.mean().item(),
            'test accuracy by class': {c: both[labels == i].mean().item() for i, c in enumerate(test.classes)}}

torch.set_num_threads(args.threads)
if args.measure:
    report = json.loads((args.out/'report.json').read_text(encoding='utf-8')) | measure(args.out)
    (args.out/'report.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
    raise SystemExit
if args.statistics:
    write_statistics(args.out)
    raise SystemExit
settings = {'epochs': args.epochs, 'minutes': None if math.isinf(args.minutes) else args.minutes, 'batch_size': 512,
            'peak_lr': args.peak_lr, 'start': 0.2, 'peak_at': 0.1 if args.start else 0.23, 'end': args.end,
            'momentum': 0.85, 'weight_decay': 1.33e-3, 'norm_bias_lr': 64, 'label_smoothing': 0.2,
            'crop_pixels': args.crop,
            'flip': 'every other epoch, by turns', 'ema': args.ema, 'seed': args.seed}

torch.manual_seed(settings['seed'])
generator = torch.Generator().manual_seed(settings['seed'])
train = load_data('cifar10')
kept = np.linspace(0, len(train) - 1, min(args.limit, len(train))).round().astype(int)
pictures, labels = torch.from_numpy(np.array(train.images[kept])), torch.from_numpy(np.array(train.labels[kept]))
n, B, pad = len(labels), settings['batch_size'], settings['crop_pixels']
model = SmallClassifier(args.widths, len(train.classes)).to(memory_format=torch.channels_last)

# standardise the pictures; the first layer finds the principal directions of their 2x2 patches, at equal strength, and
# stays as it is
some = train.batch(range(0, len(train), 10))[0]
model.mean.copy_(some.mean((0, 2, 3)).view(3, 1, 1))
model.std.copy_(some.std((0, 2, 3)).view(3, 1, 1))
patches = F.unfold((some - model.mean)/model.std, 2, stride=2).transpose(1, 2).reshape(-1, 12)
strength, directions = torch.linalg.eigh(patches.T @ patches/len(patches))
filters = (directions/(strength + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
with torch.no_grad():
    model.patches.weight.copy_(torch.cat([filters, -filters]))
    model.patches.bias.zero_()
    for stage in model.stages:
        for conv in (stage.conv1, stage.conv2):
            torch.nn.init.dirac_(conv.weight[:conv.in_channels])   # pass channels on at first
    model.out.weight /= model.out.weight.std()
if args.start: load_weights(model, args.start/'classifier.safetensors')
model.patches.weight.requires_grad_(False)
for m in model.modules():
    if isinstance(m, torch.nn.BatchNorm2d):
        m.weight.requires_grad_(False)
        m.momentum = 0.3

biases = [p for name, p in model.named_parameters() if 'norm' in name and p.requires_grad]
others = [p for name, p in model.named_parameters() if 'norm' not in name and p.requires_grad]
up = settings['norm_bias_lr']
opt = torch.optim.SGD([{'params': others, 'times': 1, 'weight_decay': settings['weight_decay']},
                       {'params': biases, 'times': up, 'weight_decay': settings['weight_decay']/up}],
                      lr=1.0, momentum=settings['momentum'], nesterov=True)
def share(p):
    "Learning rate at progress p in [0, 1], as a share of the peak: a triangle"
    if p < settings['peak_at']: return settings['start'] + (1 - settings['start'])*p/settings['peak_at']
    return 1 + (settings['end'] - 1)*(p - settings['peak_at'])/(1 - settings['peak_at'])

first_flip = torch.rand(n, generator=generator) < 0.5
def batch(index, epoch):
    "Pictures moved by up to `pad` pixels; each is mirrored in every other epoch"
    flip = first_flip[index] ^ bool(epoch % 2)
    x = (pictures[index].float()/127.5 - 1)
    x = F.pad(torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x), (pad,)*4, mode='reflect')
    dx, dy = torch.randint(2*pad + 1, (2, len(index)), generator=generator)
    rows, columns = (d.view(-1, 1) + torch.arange(32) for d in (dy, dx))
    x = x[torch.arange(len(x)).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)]
    return x.permute(0, 3, 1, 2), labels[index]                          # channels last in memory

@torch.no_grad()
def accuracy(net, data, index):
    net.eval()
    guesses = []
    for part in np.array_split(index, max(1, len(index)//500)):
        x = data.batch(part)[0].contiguous(memory_format=torch.channels_last)
        guesses.append(net.logits(net.features_of_one_view(x)).argmax(1))
    return (torch.cat(guesses) == torch.from_numpy(np.array(data.labels))[torch.as_tensor(index)]).double()

ema, step, progress, history, started = copy.deepcopy(model), 0, 0.0, [], time.time()
total = math.ceil(args.epochs*(n//B))
while progress < 1:
    epoch, at = divmod(step, n//B)
    if at == 0: shuffled, losses, right = torch.randperm(n, generator=generator), [], []
    x, y = batch(shuffled[at*B:(at + 1)*B], epoch)
    for group in opt.param_groups:
        group['lr'] = settings['peak_lr']*share(progress)*group['times']
    model.train()
    logits = model.logits(model.features_of_one_view(x))
    loss = F.cross_entropy(logits, y, label_smoothing=settings['label_smoothing'])
    opt.zero_grad()
    loss.backward()
    opt.step()
    losses.append(loss.item())
    right.append((logits.argmax(1) == y).double().mean().item())
    step += 1
    progress = max(step/total, (time.time() - started)/60/args.minutes)
    with torch.no_grad():
        keep = min(settings['ema'], step/(step + 10))
        for a, b in zip(ema.state_dict().values(), model.state_dict().values()):
            a.lerp_(b, 1 - keep) if a.is_floating_point() else a.copy_(b)
    if step % 10 == 0:
        print(f'step {step} of {total}, progress {progress:.3f}, loss {np.mean(losses[-10:]):.4f}, '
              f'{time.time() - started:.0f} s', flush=True)
    if at == n//B - 1 or progress >= 1:
        thousand = accuracy(ema, train, np.arange(0, len(train), len(train)//1000)).mean().item()
        history.append({'epoch': step/(n//B), 'loss': float(np.mean(losses)),
                        'train accuracy, with augmentation': float(np.mean(right)),
                        'accuracy of the average on 1000 training pictures': thousand,
                        'seconds': round(time.time() - started)})
        print(json.dumps(history[-1]), flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        save_weights(ema, args.out.parent/f'{args.out.name}-unfinished.safetensors')

seconds = round(time.time() - started)
with atomic_folder(args.out) as new:
    (new/'config.json').write_text(json.dumps({'widths': list(args.widths), 'n_classes': len(train.classes),
                                               'classes': list(train.classes)}, indent=1), encoding='utf-8')
    save_weights(ema, new/'classifier.safetensors', torch.float16)
    command = ['python scripts/ship_classifier.py', f'--start {args.start.name}' if args.start else '',
               f'--epochs {args.epochs:g} --peak-lr {args.peak_lr:g} --end {args.end:g} --ema {args.ema:g}',
               f'--crop {args.crop} --seed {args.seed} --widths {" ".join(map(str, args.widths))}',
               '' if math.isinf(args.minutes) else f'--minutes {args.minutes:g}']
    capability = torch.backends.cpu.get_cpu_capability()
    report = {'command': ' '.join(part for part in command if part),
              'settings': settings, 'steps': step, 'train_pictures': f'CIFAR-10 train, {n}', 'seconds': seconds,
              'machine': f'{platform.machine()}, {torch.get_num_threads()} threads, {capability}',
              'torch': torch.__version__,
              'parameters': sum(p.numel() for p in ema.parameters())} | measure(new) | {'history': history}
    if args.start: report['started from'] = json.loads((args.start/'report.json').read_text(encoding='utf-8'))
    (new/'report.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
(args.out.parent/f'{args.out.name}-unfinished.safetensors').unlink()
print(json.dumps({k: v for k, v in report.items() if k not in ('history', 'started from')}, indent=1))
write_statistics(args.out)
