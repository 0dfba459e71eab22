"Distances, scores and the shipped classifier: closed forms, slow versions, and everything that must be refused"
import copy, json, os, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from PIL import Image
from marlearn.data import ImageData, load_shapes
from marlearn.engine.pictures import load_data
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.heads import HeadConfig
from marlearn.engine.evaluation import (
    cached_features, cifar10_classifier, ClassifierExtractor, dinov2, evaluate, extract, inception, load_statistics,
    measure_tokenizer, PictureFolder, reference_statistics, result_name, save_statistics, SmallClassifier)
from marlearn.metrics import (
    as_saved, Extractor, frechet_distance, frechet_floor, inception_score, kernel_distance, PixelExtractor,
    precision_recall, Statistics)
from marlearn.files import pretrained, process_mark, save_weights
from marlearn.tokenizers import PixelTokenizer

def gaussian(F, g, rank=None):
    A = torch.randn(F, rank or F, generator=g, dtype=torch.float64)
    return torch.randn(F, generator=g, dtype=torch.float64), A @ A.T

# ---- kernel distance

def test_kernel_distance_is_that_of_torch_fidelity(g):
    "On one subset of all pictures; theirs needs as many on both sides"
    kid = pytest.importorskip('torch_fidelity.metric_kid')
    for n, F, shift in ((60, 7, .2), (150, 64, 0.)):
        first, second = torch.randn(n, F, generator=g).double(), torch.randn(n, F, generator=g).double()*1.1 + shift
        want = kid.kid_features_to_metric(first, second, kid_subsets=2, kid_subset_size=n, verbose=False)
        ours = kernel_distance(first, second, chunk=17)
        assert ours == pytest.approx(want[kid.KEY_METRIC_KID_MEAN], abs=1e-10) and abs(ours) > 1e-4

def test_kernel_distance_is_unbiased(g):
    "Two normals of 3 features, one of them moved by d: E(x.y/F + 1)^3 has a closed form in the moments"
    F, d, n = 3, .8, 12
    def expected(m):                                       # E k(x, y), x ~ N(0, 1), y ~ N(m, 1) in each feature
        s2 = (F + m*m*F)/F**2                              # variance of x.y/F; its mean and its third moment are 0
        return 1 + 3*s2
    within_moved = 1 + 3*d*d + 3*((F + 2*F*d*d)/F**2 + d**4) + ((d*d)**3 + 3*d*d*(F + 2*F*d*d)/F**2 + 6*d*d*F/F**3)
    truth = expected(0) + within_moved - 2*expected(d)
    tries = []
    for _ in range(3000):
        x, y = (torch.randn(n, F, generator=g, dtype=torch.float64) for _ in range(2))
        tries.append(kernel_distance(x, y + d))
    error = np.std(tries)/len(tries)**.5
    assert abs(np.mean(tries) - truth) < 4*error < .1*truth and min(tries) < 0

def test_kernel_distance_refuses_what_cannot_be_compared(g):
    x = torch.randn(9, 4, generator=g)
    for first, second, said in ((x, x[:, :3], 'one extractor'), (x[:1], x, 'at least 2'),
                                (x*torch.nan, x, 'first features'), (x, x[0], 'second features')):
        with pytest.raises(ValueError, match=said): kernel_distance(first, second)

# ---- Frechet distance

def slow_frechet(m1, S1, m2, S2):
    "The textbook formula: eigenvalues of the (unsymmetric) product"
    shared = torch.linalg.eigvals(S1 @ S2).real.clamp(min=0).sqrt().sum()
    return ((m1 - m2)**2).sum() + S1.trace() + S2.trace() - 2*shared

def test_frechet_closed_forms(g):
    m1, s1, m2, s2 = (torch.rand(6, generator=g, dtype=torch.float64) + .1 for _ in range(4))
    want = ((m1 - m2)**2 + (s1 - s2)**2).sum().item()                       # independent features
    assert frechet_distance(m1, s1.square().diag(), m2, s2.square().diag()) == pytest.approx(want, rel=1e-12)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]
    rotated = [turn @ m1, turn @ s1.square().diag() @ turn.T, turn @ m2, turn @ s2.square().diag() @ turn.T]
    assert frechet_distance(*rotated) == pytest.approx(want, rel=1e-10)
    assert frechet_distance(*[a.numpy() for a in rotated]) == pytest.approx(want, rel=1e-10)
    u, v = (torch.randn(6, generator=g, dtype=torch.float64) for _ in range(2))
    # lines
    assert frechet_distance(u*0, u.outer(u), u*0, v.outer(v)) == pytest.approx((u@u + v@v - 2*(u@v).abs()).item(),
                                                                               rel=1e-7)

def test_frechet_equals_textbook_and_behaves(g):
    (m1, S1), (m2, S2) = gaussian(12, g), gaussian(12, g)
    d = frechet_distance(m1, S1, m2, S2)
    assert d == pytest.approx(slow_frechet(m1, S1, m2, S2).item(), rel=1e-9)
    assert d == pytest.approx(frechet_distance(m2, S2, m1, S1), rel=1e-9)
    assert frechet_distance(m1 + 7, S1, m2 + 7, S2) == pytest.approx(d, rel=1e-9)  # moved together: nothing
    assert frechet_distance(m1 + 7, S1, m1, S1) == pytest.approx(12*49, rel=1e-9)  # moved apart: the square
    assert frechet_distance(3*m1, 9*S1, 3*m2, 9*S2) == pytest.approx(9*d, rel=1e-9)
    assert frechet_distance(m1, S1, m1, S1) < 1e-9*S1.trace()

@pytest.mark.parametrize('rank', [1, 5, 39])
def test_frechet_singular(g, rank):
    (m1, S1), (m2, S2) = gaussian(40, g, rank), gaussian(40, g)
    ridge = 1e-10*torch.eye(40, dtype=torch.float64)
    assert frechet_distance(m1, S1, m2, S2) == pytest.approx(frechet_distance(m1, S1 + ridge, m2, S2), rel=1e-3)
    assert frechet_distance(m1, S1, m1, S1) < 1e-9*S1.trace()
    x = torch.randn(rank + 1, 40, generator=g) + 100                        # fewer pictures than features
    few = Statistics().update(x)
    assert few.distance(few) < 1e-6
    assert few.distance(Statistics(m2, S2, 100)) == pytest.approx(Statistics(m2, S2, 100).distance(few), rel=1e-8)

def test_frechet_refuses(g):
    m, S = gaussian(4, g)
    vectors = torch.linalg.eigh(S)[1]
    nearly, wrong = ((vectors*torch.tensor([e, 1., 2., 3.], dtype=torch.float64)) @ vectors.T for e in (-1e-12, -.1))
    assert np.isfinite(frechet_distance(m, nearly, m, S)) and np.isfinite(frechet_distance(m, S, m, nearly))
    for a in ((m, wrong, m, S), (m, S, m, wrong)):
        with pytest.raises(ValueError, match='eigenvalue -0.1'): frechet_distance(*a)
    with pytest.raises(ValueError, match='4 features on one side, 3'): frechet_distance(m, S, m[:3], S[:3, :3])
    with pytest.raises(ValueError, match=r'must be \(F,\) and \(F, F\)'): frechet_distance(m, S[:3], m, S)
    with pytest.raises(ValueError, match='NaN'): frechet_distance(m*float('nan'), S, m, S)
    with pytest.raises(ValueError, match='not symmetric'): frechet_distance(m, S.triu(), m, S)

# ---- Statistics

def test_statistics_accumulate(g):
    x = torch.randn(300, 7, generator=g)*torch.arange(1, 8) + 3
    s = Statistics()
    for part in x.split([1, 50, 2, 0, 100, 147]):
        s.update(part)
    assert s.n == 300
    torch.testing.assert_close(s.mean, x.double().mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(s.cov, torch.cov(x.double().T), rtol=1e-11, atol=1e-12)
    far = Statistics()
    for part in (x.double() + 1e8).split(30):
        far.update(part)              # sums of squares would lose all digits here
    torch.testing.assert_close(far.cov, s.cov, rtol=1e-5, atol=1e-5)

def test_statistics_files(g, tmp_path):
    s = Statistics(name='seen').update(torch.randn(50, 5, generator=g))
    for name in ('a.npz', 'a.safetensors'):
        save_statistics(s, tmp_path/name)
        again = load_statistics(tmp_path/name)
        assert again.n == 50 and torch.equal(again.mean, s.mean) and again.distance(s) < 1e-12
    np.savez(tmp_path/'adm.npz', mu=s.mean.numpy(), sigma=s.cov.numpy(), mu_s=np.ones(3),
             arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    other = load_statistics(tmp_path/'adm.npz')
    assert other.n is None and other.distance(s) < 1e-12 and other.name == 'adm.npz'
    with pytest.raises(ValueError, match='without the number'): other.update(torch.ones(2, 5))
    save_statistics(other, tmp_path/'b.npz')
    assert load_statistics(tmp_path/'b.npz').n is None
    np.savez(tmp_path/'half.npz', mu=s.mean.numpy())
    with pytest.raises(ValueError, match='no cov'): load_statistics(tmp_path/'half.npz')
    np.savez(tmp_path/'code.npz', mu=np.array([Path('x')], dtype=object), sigma=np.eye(1))
    with pytest.raises(ValueError, match='cannot be read'): load_statistics(tmp_path/'code.npz')
    for name in ('bad.npz', 'bad.safetensors'):
        (tmp_path/name).write_bytes(b'no statistics')
        with pytest.raises(ValueError, match='cannot be read'): load_statistics(tmp_path/name)
    with pytest.raises(FileNotFoundError): load_statistics(tmp_path/'nowhere.npz')
    with pytest.raises(ValueError, match='.npz or .safetensors'): save_statistics(s, tmp_path/'a.pt')

def test_statistics_continue_after_loading(g, tmp_path):
    x = torch.randn(80, 5, generator=g, dtype=torch.float64)
    save_statistics(Statistics().update(x[:50]), tmp_path/'a.npz')
    torch.testing.assert_close(load_statistics(tmp_path/'a.npz').update(x[50:]).cov, torch.cov(x.T))

def test_statistics_refuse(g):
    with pytest.raises(ValueError, match='at least 2'): Statistics().update(torch.ones(1, 3)).cov
    with pytest.raises(ValueError, match='at least 2'): Statistics().cov
    with pytest.raises(ValueError, match='1 of 4 pictures hold NaN'):
        Statistics().update(torch.tensor([[0., 1], [float('nan'), 0], [1, 1], [2, 2]]))
    with pytest.raises(ValueError, match='4 features, but those before had 3'):
        Statistics().update(torch.ones(2, 3)).update(torch.ones(2, 4))
    with pytest.raises(ValueError, match='must be'): Statistics().update(torch.ones(3))

def test_floor_is_what_real_samples_get(g):
    m, S = gaussian(10, g)
    root, reference = torch.linalg.cholesky(S + 1e-9*torch.eye(10, dtype=torch.float64)), Statistics(m, S, 10_000)
    seen = np.mean([Statistics().update(m + torch.randn(60, 10, generator=g,
                                                        dtype=torch.float64) @ root.T).distance(reference)
                    for _ in range(20)])
    assert frechet_floor(reference, 60, draws=20) == pytest.approx(seen, rel=.25)
    assert frechet_floor(reference, 600, 5) < frechet_floor(reference, 60, 5)/4
    with pytest.raises(ValueError, match='at least 2'): frechet_floor(reference, 1)

# ---- inception score

def slow_score(p):
    total, mean = 0., p.mean(0)
    for row in p:
        for a, b in zip(row, mean):
            total += float(a*torch.log(a/b)) if a > 0 else 0.
    return np.exp(total/len(p))

def test_inception_score(g):
    C = 7
    assert inception_score(torch.eye(C).repeat(20, 1), splits=1) == pytest.approx((C, 0))        # certain and varied
    # certain, always the same
    assert inception_score(torch.eye(C)[torch.zeros(40, dtype=int)]) == pytest.approx((1, 0))
    assert inception_score(torch.full((40, C), 1/C)) == pytest.approx((1, 0))                    # never certain
    p = torch.randn(60, C, generator=g).softmax(1)
    assert inception_score(p, splits=1)[0] == pytest.approx(slow_score(p), rel=1e-5)
    parts = [slow_score(q) for q in p.tensor_split(7)]
    assert inception_score(p, splits=7) == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-5)
    for bad, match in ((p*2, 'sum'), (p - .5, 'smallest'), (p*float('nan'), 'NaN'), (p[0], 'must be')):
        with pytest.raises(ValueError, match=match): inception_score(bad)
    with pytest.raises(ValueError, match='splits=10 must lie in 1..9'): inception_score(p[:9])

# ---- precision and recall

def slow_precision_recall(real, fake, k):
    def covered(points, centres):
        radii = [sorted((a - b).norm().item() for b in centres)[k] for a in centres]
        return np.mean([any((p - c).norm().item() <= r for c, r in zip(centres, radii)) for p in points])
    return covered(fake, real), covered(real, fake)

def test_precision_recall(g):
    real, fake = torch.randn(40, 3, generator=g), torch.randn(30, 3, generator=g)*.7 + .5
    for k in (1, 3):
        assert precision_recall(real, fake, k) == pytest.approx(slow_precision_recall(real, fake, k))
        assert precision_recall(real, fake, k, chunk=7) == precision_recall(real, fake, k)
    assert 0 < precision_recall(real, fake)[1] < 1
    assert precision_recall(real, real.clone()) == (1, 1)
    assert precision_recall(real, fake + 100) == (0, 0)
    two = torch.cat([real, real + 50])  # two far classes; the fake ones know one of them
    precision, recall = precision_recall(two, real.clone())
    assert precision == 1 and recall == pytest.approx(.5)

def test_precision_recall_refuses(g):
    x = torch.randn(10, 3, generator=g)
    with pytest.raises(ValueError, match='k=3 needs more than 3'): precision_recall(x, x[:3])
    with pytest.raises(ValueError, match='k=0'): precision_recall(x, x, k=0)
    with pytest.raises(ValueError, match='3 real features, 2 fake'): precision_recall(x, x[:, :2])
    with pytest.raises(ValueError, match='fake features of 10 of 10'): precision_recall(x, x*float('inf'))

# ---- extractors

@pytest.fixture(scope='module')
def small():
    "A classifier of the shipped kind with random weights"
    torch.manual_seed(0)
    return ClassifierExtractor(SmallClassifier((4, 6, 8)), 'random-classifier')

def test_classifier_protocol(small, tmp_path, g):
    images = torch.rand(5, 3, 32, 32, generator=g)*2 - 1
    found = small(images)
    assert found['features'].shape == (5, 8) and found['probabilities'].shape == (5, 10)
    torch.testing.assert_close(found['probabilities'].sum(1), torch.ones(5))
    # nor does it matter where left is
    torch.testing.assert_close(small(images.flip(-1))['features'], found['features'], rtol=1e-4, atol=1e-5)
    one_view = small.net.features_of_one_view
    assert not torch.allclose(one_view(images.flip(-1)), one_view(images), rtol=1e-2)
    # no picture sees another
    torch.testing.assert_close(small(images[2:3])['features'], found['features'][2:3], rtol=1e-4, atol=1e-5)
    (tmp_path/'config.json').write_text(json.dumps({'widths': [4, 6, 8], 'n_classes': 10}))
    with pytest.raises(FileNotFoundError, match='classifier.safetensors'): cifar10_classifier(tmp_path)
    save_weights(small.net, tmp_path/'classifier.safetensors')
    torch.testing.assert_close(cifar10_classifier(tmp_path)(images), found)
    with pytest.raises(FileNotFoundError, match='config.json'): cifar10_classifier(tmp_path/'nowhere')
    with pytest.raises(ValueError, match=r'must be \(B, 3, H, W\)'): small(images[:, :1])
    with pytest.raises(ValueError, match='at least 9'): small(images[..., :8, :8])

def test_pixels_and_extract(g):
    data = load_shapes('test', n=30)
    found = extract(PixelExtractor(1), data, quiet=True, batch_size=7)['features']
    torch.testing.assert_close(found, data.batch(range(30))[0].mean((2, 3)))
    torch.testing.assert_close(extract(PixelExtractor(1), data, index=[3, 5], quiet=True)['features'], found[[3, 5]])
    with pytest.raises(ValueError, match='empty'): extract(PixelExtractor(1), data, index=[])
    images = torch.tensor([[[[-3., 0.0001]]]])
    torch.testing.assert_close(as_saved(images), torch.tensor([[[[-1., 128/127.5 - 1]]]]))
    with pytest.raises(ValueError, match='1 of 1 pictures'): as_saved(images*float('nan'))

def test_only_inception_is_called_fid(small):
    class Inception(Extractor):
        name = 'inception'
    names = [result_name(what, small) for what in ('distance', 'score', 'precision', 'recall')]
    assert len(set(names)) == 4
    assert all('random-classifier' in n and 'fid' not in n.lower() and 'inception' not in n.lower() for n in names)
    assert result_name('kernel distance', Inception()) == 'KID'
    assert result_name('distance', Inception()) == 'FID' and result_name('score', Inception()) == 'inception score'
    class Dino(Extractor):
        name = 'dinov2-vit-l-14'
    assert result_name('distance', Dino()) == 'FDD, dinov2-vit-l-14' and 'features' in result_name('precision', Dino())

@pytest.mark.parametrize('make, file', [(inception, 'weights-inception-2015-12-05-6726825d.pth'),
                                        (dinov2, 'dinov2_vitl14_pretrain.pth')])
def test_missing_weights_are_named_and_never_fetched(make, file, tmp_path, monkeypatch):
    pytest.importorskip('torch_fidelity')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    def never(*a, **k): raise AssertionError('a download was tried')
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', never)
    monkeypatch.setattr(torch.hub, 'download_url_to_file', never)
    with pytest.raises(FileNotFoundError, match=file) as e: make()
    assert str(tmp_path/'hub'/'checkpoints'/file) in str(e.value)
    with pytest.raises(FileNotFoundError, match='mine.pth'): make(tmp_path/'mine.pth')

def test_without_torch_fidelity(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'torch_fidelity', None)
    for make in (inception, dinov2):
        with pytest.raises(ImportError, match=r'marlearn\[metrics\]'): make(tmp_path/'x')

class Evil:
    "Makes a folder when it is unpickled with code execution"
    def __init__(self, folder):
        self.folder = folder
    def __reduce__(self): return os.mkdir, (str(self.folder),)

def test_inception_with_random_weights(tmp_path, monkeypatch, g):
    pytest.importorskip('torch_fidelity')
    import torch_fidelity.feature_extractor_inceptionv3 as module
    with monkeypatch.context() as m:  # a network of the right shape, without its weights
        m.setattr(module, 'load_state_dict_from_url', lambda *a, **k: {})
        m.setattr(module.FeatureExtractorInceptionV3, 'load_state_dict', lambda self, weights: None)
        plain = module.FeatureExtractorInceptionV3('inception-v3-compat', ['2048', 'logits_unbiased'])
    torch.save(plain.state_dict(), tmp_path/'w.pth')
    images = as_saved(torch.rand(2, 3, 32, 32, generator=g)*2 - 1)
    extractor = inception(tmp_path/'w.pth')
    found = extractor(images)
    features, logits = plain(((images + 1)*127.5).round().to(torch.uint8))
    assert features.shape == (2, 2048) and features.std() > 0
    torch.testing.assert_close(found['features'], features)
    torch.testing.assert_close(found['probabilities'], logits.softmax(1))
    assert result_name('distance', extractor) == 'FID'
    torch.save({'fc.weight': torch.ones(2)}, tmp_path/'other.pth')
    with pytest.raises(ValueError, match='does not fit'): inception(tmp_path/'other.pth')
    torch.save(Evil(tmp_path/'made'), tmp_path/'evil.pth')
    with pytest.raises(ValueError, match='no plain weights'): inception(tmp_path/'evil.pth')
    assert not (tmp_path/'made').exists()

HUBCONF = '''
from torch import nn
def dinov2_vits14(pretrained=True):
    assert not pretrained
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
'''

def test_dinov2_from_a_local_hub(tmp_path, monkeypatch, g):
    pytest.importorskip('torch_fidelity')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    code, weights = tmp_path/'hub'/'facebookresearch_dinov2_main', tmp_path/'hub'/'checkpoints'
    weights.mkdir(parents=True)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 5))
    torch.save(net.state_dict(), weights/'dinov2_vits14_pretrain.pth')
    with pytest.raises(FileNotFoundError, match='facebookresearch_dinov2_main'): dinov2(size='s')
    code.mkdir()
    (code/'hubconf.py').write_text(HUBCONF)
    extractor = dinov2(size='s')
    images = torch.ones(2, 3, 32, 32)                                       # white: (255 - mean)/std in every cell
    white = (1 - torch.tensor([.485, .456, .406]))/torch.tensor([.229, .224, .225])
    torch.testing.assert_close(extractor(images)['features'], net(white.view(1, 3, 1, 1).expand(2, 3, 2, 2)),
                               rtol=1e-2, atol=1e-3)
    assert 'probabilities' not in extractor(images) and 'FID' not in result_name('distance', extractor)
    with pytest.raises(ValueError, match="size='xl'"): dinov2(size='xl')
    torch.save({'x': torch.ones(1)}, tmp_path/'other.pth')
    with pytest.raises(ValueError, match='does not fit dinov2_vits14'): dinov2(tmp_path/'other.pth', size='s')

# ---- the classifier that ships

def cifar_test():
    if not os.environ.get('MARLEARN_DATA'): pytest.skip('CIFAR-10 is needed: set MARLEARN_DATA')
    try:
        return load_data('cifar10', 'test', download=False)
    except (ValueError, FileNotFoundError) as e: pytest.skip(f'CIFAR-10 is needed: {e}')

def test_shipped_classifier_is_as_good_as_it_says():
    data, folder = cifar_test(), pretrained('classifier')
    found = extract(cifar10_classifier(), data, quiet=True)
    accuracy = (found['probabilities'].argmax(1) == torch.from_numpy(np.array(data.labels))).double().mean().item()
    assert accuracy >= .88
    report = json.loads((folder/'report.json').read_text())
    assert report['test accuracy, float16 weights as shipped'] == pytest.approx(accuracy, abs=1e-3)
    assert 'ship_classifier.py' in report['command']
    assert np.mean(list(report['test accuracy by class'].values())) == pytest.approx(accuracy, abs=1e-3)
    # both are told
    one, two = 'the same, without the look at the mirror image', 'test accuracy, float16 weights as shipped'
    assert report[one] < report[two]
    mine, kept = Statistics().update(found['features']), reference_statistics('cifar10-test')
    assert kept.n == 10_000 and mine.distance(kept) < 1e-3*kept.distance(reference_statistics('cifar10'))

def test_shipped_classifier_is_small_and_deterministic(g):
    folder, images = pretrained('classifier'), torch.rand(3, 3, 32, 32, generator=g)*2 - 1
    assert sum(f.stat().st_size for f in folder.rglob('*')) < 2_200_000
    extractor = cifar10_classifier()
    assert extractor.name == 'cifar10-classifier' and not any(m.training for m in extractor.modules())
    assert torch.equal(extractor(images)['features'], extractor(images)['features'])
    train, test = reference_statistics('cifar10'), reference_statistics('cifar10-test')
    F = extractor(images)['features'].shape[1]
    assert train.n == 50_000 and train.cov.shape == test.cov.shape == (F, F)
    assert 0 < train.distance(test) < .05*train.cov.trace()
    with pytest.raises(ValueError, match='no statistics ship'): reference_statistics('imagenet')

# ---- whole measurements

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return AutoregressiveModel(ModelConfig(n_tokens=16, token_dim=192, n_classes=10, width=16, encoder_blocks=1,
                                  decoder_blocks=1, heads=2, class_slots=1,
                                  head=HeadConfig(blocks=1, width=16, x0_limit=5.0))).eval()

FAST = {'ar_steps': 2, 'diff_steps': 2, 'quiet': True}

def test_evaluate_pictures(model, small):
    reference = load_shapes('test', n=60)
    before = torch.get_rng_state()
    result = evaluate(model, PixelTokenizer(patch=8), reference, n=20, seeds=2, extractor=small, batch_size=8, **FAST)
    assert json.loads(json.dumps(result)) == result
    what = ('distance', 'kernel distance', 'score', 'precision', 'recall')
    distance, kernel, score, precision, recall = (result_name(w, small) for w in what)
    assert set(result['mean']) == {distance, kernel, score, precision, recall}
    assert 'fid' not in json.dumps(result).lower()
    rows = result['per seed']
    assert [r['seed'] for r in rows] == result['seeds'] == [0, 1] and rows[0][distance] != rows[1][distance]
    assert result['mean'][distance] == pytest.approx((rows[0][distance] + rows[1][distance])/2)
    spread = abs(rows[0][distance] - rows[1][distance])/2**.5
    assert result['standard deviation over seeds'][distance] == pytest.approx(spread)
    assert result['n'] == 20
    assert result['pictures per class'] == 2
    assert result['reference'] == 'shapes, 60 pictures'
    assert result['settings']['ar_steps'] == 2
    (what, floor), = result['floor'].items()
    assert what == '20 real pictures against the other 40'
    assert floor[distance] < result['mean'][distance]
    assert abs(floor[kernel]) < result['mean'][kernel]
    assert floor[precision] > .5
    features = extract(small, reference, quiet=True)['features']
    lots = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    held_out, others = (Statistics().update(features[part]) for part in (lots[:20], lots[20:]))
    assert floor[distance] == pytest.approx(held_out.distance(others), rel=1e-4)
    again = evaluate(model, PixelTokenizer(patch=8), reference, n=20, seeds=[1], extractor=small, batch_size=8, **FAST)
    assert again['per seed'][0] == rows[1] and again['standard deviation over seeds'][distance] is None
    assert torch.equal(before, torch.get_rng_state())

def folder_of(path, model, **changes):
    settings = dict(classes=[f'class/{c}' for c in range(10)], batch_size=7, ar_steps=2, diff_steps=2) | changes
    return PictureFolder(path, model, PixelTokenizer(patch=8), torch.arange(30) % 10, **settings)

def test_picture_folder_shared_killed_and_damaged(model, tmp_path):
    whole, other = folder_of(tmp_path/'whole', model), folder_of(tmp_path/'other', model)
    whole.fill(quiet=True)
    assert len(list((tmp_path/'whole').rglob('*.png'))) == 30
    assert len(set(f.read_bytes() for f in whole.files)) == 30
    assert whole.files[13].parent.name == 'class_3'
    for rank in (1, 0):
        other.fill(rank, 3, quiet=True)
    assert [other.done(k) for k in range(5)] == [True, True, False, True, True]
    with pytest.raises(TimeoutError, match='1 batches are missing, those of rank 2'): other.wait(3, timeout=.05)
    machine, pid, _ = process_mark().split('-')
    left = other.files[0].with_name(f'0000000.png.unfinished-{machine}-{pid}-1-x')             # a process that is gone
    left.write_bytes(b'half')
    other.files[3].unlink()
    other.files[9].write_bytes(other.files[9].read_bytes()[:-60])
    other.files[23].write_bytes(b'')
    # of a sound batch, and beside a damaged picture
    def stamp(): return [other.files[k].stat().st_mtime_ns for k in (29, 22)]
    before = stamp()
    again = folder_of(tmp_path/'other', model)
    again.fill(quiet=True)
    again.wait(1)
    assert all(torch.equal(whole.read(k), again.read(k)) for k in range(5)) and not left.exists()
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(whole.files, again.files))
    assert [a == b for a, b in zip(before, stamp())] == [True, False]
    before = {f: f.stat().st_mtime_ns for f in again.files}
    folder_of(tmp_path/'other', model).fill(quiet=True)
    assert before == {f: f.stat().st_mtime_ns for f in again.files}

def test_picture_folder_refuses(model, tmp_path, monkeypatch):
    folder_of(tmp_path/'a', model)
    for change, match in (({'seed': 1}, 'seed was 0, is 1'), ({'batch_size': 8}, 'batch_size was 7, is 8'),
                          ({'cfg_scale': 2.0}, 'settings was')):
        with pytest.raises(ValueError, match=match): folder_of(tmp_path/'a', model, **change)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        next(changed.parameters())[0] += 1e-3
    with pytest.raises(ValueError, match='weights was'): folder_of(tmp_path/'a', changed)
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'cat.png').write_bytes(b'')
    with pytest.raises(FileExistsError, match='already holds pictures'): folder_of(tmp_path/'mine', model)
    (tmp_path/'a'/'pictures.json').write_text('{"wei')
    with pytest.raises(ValueError, match='cannot be read'): folder_of(tmp_path/'a', model)
    full = folder_of(tmp_path/'full', model)
    monkeypatch.setattr('shutil.disk_usage', lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match='nothing was drawn'): full.fill(quiet=True)
    assert not list((tmp_path/'full').rglob('*.png*'))

def test_picture_folder_where_the_disk_fills_up(model, tmp_path, monkeypatch):
    folder, save = folder_of(tmp_path/'a', model), Image.Image.save
    room = iter(range(10))
    def tight(self, file, *a):
        if next(room, None) is None:
            file.write_bytes(b'half')
            raise OSError(28, 'No space left on device')
        save(self, file, *a)
    monkeypatch.setattr(Image.Image, 'save', tight)
    with pytest.raises(OSError, match='No space left on device; what is finished is kept'): folder.fill(quiet=True)
    assert len(list((tmp_path/'a').rglob('*.png'))) == 10 and not list((tmp_path/'a').rglob('.*'))
    monkeypatch.undo()
    folder.fill(quiet=True)
    fresh = folder_of(tmp_path/'b', model)
    fresh.fill(quiet=True)
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(folder.files, fresh.files))

def test_evaluate_with_a_folder_and_others_is_the_same(model, small, tmp_path):
    reference, args = load_shapes('test', n=60), dict(n=20, seeds=2, extractor=small, batch_size=8, **FAST)
    alone = evaluate(model, PixelTokenizer(patch=8), reference, **args)
    kept = dict(folder=tmp_path/'p', world_size=2) | args
    assert evaluate(model, PixelTokenizer(patch=8), reference, rank=1, **kept) is None
    result = evaluate(model, PixelTokenizer(patch=8), reference, rank=0, **kept)
    assert result['per seed'] == alone['per seed'] and len(list((tmp_path/'p').rglob('*.png'))) == 40
    with pytest.raises(ValueError, match='need a folder'):
        evaluate(model, PixelTokenizer(patch=8), reference, **args, world_size=2)
    with pytest.raises(TimeoutError, match='rank 1'):
        evaluate(model, PixelTokenizer(patch=8), reference, **(kept | {'folder': tmp_path/'q', 'timeout': .1}))

class Counting(PixelExtractor):
    "Counts the pictures that it was shown"
    seen = 0
    def forward(self, images):
        self.seen += len(images)
        return super().forward(images)

def kept_in(cache): return sorted(cache.glob('features-*'))

def test_a_references_features_are_extracted_once(tmp_path, monkeypatch):
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path))
    data, eyes = load_shapes('test', n=300), Counting(4)
    for was_there, most in ((False, 300), (True, 8)):
        eyes.seen = 0
        found, from_cache = cached_features(data, eyes, quiet=True)
        assert from_cache == was_there and eyes.seen <= most
        want = extract(PixelExtractor(4), data, quiet=True)['features']
        torch.testing.assert_close(torch.tensor(found['features']), want)
    other_pictures = ImageData(data.images.copy(), data.labels, data.classes, data.name, data.source)
    other_pictures.images[299, 2, 31, 31] ^= 1                             # the last byte of all
    assert not cached_features(other_pictures, eyes, quiet=True)[1]
    assert not cached_features(data, PixelExtractor(2), quiet=True)[1]
    nets = [ClassifierExtractor(SmallClassifier((4, 4, 8)), 'a') for _ in range(2)]
    for net in nets: assert not cached_features(data, net, quiet=True)[1]    # one name, but other weights
    assert len(kept_in(tmp_path)) == 5

class Darker(PixelExtractor):
    "The same name and the same weights (none), other features"
    def forward(self, images): return super().forward(images*.5 - .5)

def test_kept_features_that_are_damaged_or_of_another_kind_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path))
    data = load_shapes('test', n=100)
    right, _ = cached_features(data, PixelExtractor(4), quiet=True)
    right = np.array(right['features'])
    folder, = kept_in(tmp_path)
    whole = (folder/'features.npy').read_bytes()
    flipped = whole[:-500] + bytes([whole[-500] ^ 1]) + whole[-499:]
    def lose(name): return lambda: (folder/name).unlink()
    def write(name, content): return lambda: (folder/name).write_bytes(content)
    for harm in (write('features.npy', flipped), write('features.npy', whole[:1000]), lose('features.npy'),
                 lose('index.json'), write('index.json', b'{"sha256"')):
        harm()
        with pytest.warns(UserWarning, match='damaged'):
            found, from_cache = cached_features(data, PixelExtractor(4), quiet=True)
        assert not from_cache and np.array_equal(found['features'], right)
        assert cached_features(data, PixelExtractor(4), quiet=True)[1]
    with pytest.warns(UserWarning, match='other features'):
        found, from_cache = cached_features(data, Darker(4), quiet=True)
    assert not from_cache and np.allclose(found['features'], right*.5 - .5, atol=1e-6)

def test_features_that_cannot_be_kept_are_no_reason_to_stop(tmp_path, monkeypatch):
    data = load_shapes('test', n=20)
    (tmp_path/'file').write_text('')
    for cache, free in ((tmp_path/'file', None), (tmp_path/'full', 100)):
        monkeypatch.setenv('MARLEARN_CACHE', str(cache))
        if free: monkeypatch.setattr('shutil.disk_usage', lambda _: SimpleNamespace(free=free))
        with pytest.warns(UserWarning, match='could not be kept'):
            found, from_cache = cached_features(data, PixelExtractor(4), quiet=True)
        assert not from_cache and found['features'].shape == (20, 48)
    assert not list((tmp_path/'full').iterdir())

def test_evaluate_says_that_features_came_from_the_cache(model, small, tmp_path, monkeypatch):
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path))
    data, args = load_shapes('test', n=60), dict(seeds=1, extractor=small, batch_size=8, **FAST)
    first, second, more = (evaluate(model, PixelTokenizer(patch=8), data, n=n, **args) for n in (20, 20, 30))
    said = [r["the reference's features"] for r in (first, second, more)]
    assert said == ['extracted', 'from the cache', 'from the cache']
    assert first['per seed'] == second['per seed'] and first['floor'] == second['floor']
    statistics = Statistics().update(extract(small, data, quiet=True)['features'])
    assert "the reference's features" not in evaluate(model, PixelTokenizer(patch=8), statistics, n=20, **args)

def test_evaluate_refuses_another_number_of_classes(model, small):
    three = ImageData(*(a[:60] for a in (load_shapes('test').images, np.arange(60) % 3)), ('a', 'b', 'c'), 'three', '')
    args = dict(n=20, seeds=1, extractor=small, **FAST)
    with pytest.raises(ValueError, match="draws 10 classes equally often, 'three' has 3"):
        evaluate(model, PixelTokenizer(patch=8), three, **args)
    unsorted = ImageData(three.images, three.labels*0, ('unknown',), 'unsorted', '')
    results = [evaluate(model, PixelTokenizer(patch=8), data, any_classes=any_, **args)
               for data, any_ in ((three, True), (unsorted, False))]
    assert results[0]['per seed'] == results[1]['per seed']

def test_evaluate_statistics_with_real_pictures_beside_them(model, small):
    data = load_shapes('test', n=60)
    reference = Statistics(name='sixty').update(extract(small, data, quiet=True)['features'])
    args = dict(n=20, seeds=1, extractor=small, batch_size=8, **FAST)
    plain = evaluate(model, PixelTokenizer(patch=8), reference, **args)
    beside = evaluate(model, PixelTokenizer(patch=8), reference, real=data, **args)
    whole = evaluate(model, PixelTokenizer(patch=8), data, **args)
    assert set(beside['mean']) == set(whole['mean']) > set(plain['mean'])
    with pytest.raises(ValueError, match='goes with a reference that is statistics'):
        evaluate(model, PixelTokenizer(patch=8), data, real=data, **args)
    with pytest.raises(ValueError, match=r'these are \(3, 16, 16\)'):
        evaluate(model, PixelTokenizer(patch=8), reference, real=load_shapes('test', img_size=16, n=20), **args)
    with pytest.raises(ValueError, match=r"draws \(3, 32, 32\) pictures, 'shapes' holds \(3, 16, 16\)"):
        evaluate(model, PixelTokenizer(patch=8), load_shapes('test', img_size=16, n=20), **args)

def test_evaluate_draws_classes_equally_often(model, small, monkeypatch):
    import marlearn.engine.evaluation as evaluation
    seen = []
    def fake(model, labels, *, generator, **options):
        seen.append(labels)
        return torch.randn(len(labels), 16, 192, generator=generator)
    monkeypatch.setattr(evaluation, 'generate', fake)
    evaluate(model, PixelTokenizer(patch=8), load_shapes('test', n=40), n=30, seeds=1, extractor=small, batch_size=7,
             quiet=True)
    assert torch.cat(seen).bincount().tolist() == [3]*10

def test_evaluate_statistics(model, small, capsys):
    data = load_shapes('test', n=60)
    reference = Statistics(name='sixty shapes').update(extract(small, data, quiet=True)['features'])
    result = evaluate(model, PixelTokenizer(patch=8), reference, n=20, seeds=1, extractor=small,
                      **(FAST | {'quiet': False}))
    assert list(result['floor']) == ["20 draws from a Gaussian with the reference's mean and covariance"]
    assert result['reference'] == 'sixty shapes, 60 pictures'
    assert result_name('precision', small) not in result['mean'] and 'minutes' in capsys.readouterr().err
    same = evaluate(model, PixelTokenizer(patch=8), data, n=20, seeds=1, extractor=small, **FAST)
    assert same['mean'][result_name('distance', small)] == pytest.approx(result['mean'][result_name('distance', small)])

def test_evaluate_refuses_before_any_work(model, small, monkeypatch):
    import marlearn.engine.evaluation as evaluation
    def never(*a, **k): raise AssertionError('work was done')
    monkeypatch.setattr(evaluation, 'generate', never)
    data, tokenizer = load_shapes('test', n=40), PixelTokenizer(patch=8)
    for change, match in (({'n': 25}, 'multiple of the 10 classes'), ({'n': 0}, 'multiple'), ({'seeds': 0}, 'seeds'),
                          ({'seeds': [1, 1]}, 'seeds'), ({'batch_size': 0}, 'batch_size=0'),
                          ({'generator': None}, 'generator')):
        with pytest.raises(ValueError, match=match):
            evaluate(model, tokenizer, data, **({'n': 20, 'extractor': small, 'quiet': True} | change))
    with pytest.raises(ValueError, match=r'draws \(3, 32, 32\)'):
        evaluate(model, tokenizer, load_shapes('test', img_size=16, n=40), n=20, extractor=small)
    with pytest.raises(ValueError, match='3 features, random-classifier gives 8'):
        evaluate(model, tokenizer, Statistics(torch.zeros(3), torch.eye(3), 9), n=20, extractor=small)
    with pytest.raises(ValueError, match='too few'):
        evaluate(model, tokenizer, load_shapes('test', n=5), n=20, extractor=small)

def test_evaluate_leaves_training_mode_alone_and_refuses_nan(model, small, monkeypatch):
    import marlearn.engine.evaluation as evaluation
    monkeypatch.setattr(evaluation, 'generate', lambda model, labels,
                        **options: torch.full((len(labels), 16, 192), float('nan')))
    model.train()
    try:
        with pytest.raises(ValueError, match='hold NaN'):
            evaluate(model, PixelTokenizer(patch=8), load_shapes('test', n=40), n=20, extractor=small, quiet=True)
        assert model.training
    finally: model.eval()

class Rounded(PixelTokenizer):
    "Two codes, grey and white; tokens are the nearer one"
    def __init__(self, codes=((-1.,)*3, (1.,)*3)):
        super().__init__(patch=1, scale=1.)
        self.register_buffer('codes', torch.tensor(codes))
    @property
    def codebook(self): return self.codes
    def moments(self, images):
        mean, _ = super().moments(images)
        return self.codes[torch.cdist(mean, self.codes).argmin(-1)], None

def test_measure_tokenizer(small):
    data = load_shapes('test', n=60)
    perfect = measure_tokenizer(PixelTokenizer(patch=4), data, n=50, extractor=small, quiet=True)
    name = f"reconstruction {result_name('distance', small)}"
    assert json.loads(json.dumps(perfect)) == perfect and 'fid' not in json.dumps(perfect).lower()
    assert perfect['ssim'] == pytest.approx(1, abs=1e-4) and perfect['psnr'] is None or perfect['psnr'] > 60
    assert perfect[name] < 1e-4
    assert 'codebook' not in perfect
    assert perfect['reference'] == 'shapes, 50 of 60 pictures'
    assert (perfect['tokens per picture'], perfect['numbers per token']) == (64, 48)
    tokens = PixelTokenizer(patch=4).encode(data.batch(np.linspace(0, 59, 50).round().astype(int))[0])
    assert perfect['std of tokens'] == pytest.approx(tokens.std().item(), rel=1e-4) and perfect['scale'] == 2.
    rough = measure_tokenizer(Rounded(), data, n=50, extractor=small, quiet=True)
    assert rough['psnr'] < 15 and rough['ssim'] < .8 and rough[name] > 100*perfect[name]
    assert rough['codebook']['codes'] == rough['codebook']['used'] == 2 and 1 < rough['codebook']['perplexity'] <= 2
    unused = measure_tokenizer(Rounded(((-1.,)*3, (1.,)*3, (9.,)*3)), data, n=50, extractor=small, quiet=True)
    assert unused['codebook']['used'] == 2
    assert unused['codebook']['perplexity'] == pytest.approx(rough['codebook']['perplexity'])

def test_measure_tokenizer_of_pictures_that_are_no_squares():
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 16, 32), np.uint8)
    data = ImageData(images, np.zeros(10, np.int64), ('noise',), 'wide', 'drawn')
    result = measure_tokenizer(PixelTokenizer(patch=4), data, n=10, extractor=PixelExtractor(), quiet=True)
    assert result['tokens per picture'] == 4*8 and result['ssim'] == pytest.approx(1, abs=1e-4)

def test_measure_tokenizer_refuses(small):
    data = load_shapes('test', n=20)
    for n in (1, 21):
        with pytest.raises(ValueError, match=f'n={n} must lie in 2..20'):
            measure_tokenizer(PixelTokenizer(), data, n=n, extractor=small)
    with pytest.raises(ValueError, match='not a multiple'):
        measure_tokenizer(PixelTokenizer(patch=5), data, n=5, extractor=small)
    with pytest.raises(ValueError, match='channels'):
        measure_tokenizer(PixelTokenizer(channels=1), data, n=5, extractor=small)
