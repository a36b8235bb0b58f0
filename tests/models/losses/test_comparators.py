"""The losses of the comparators against golden numbers of the published code, and against slow rewrites in loops."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DATA
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import VIDRegressor
from icd_mmrazor.models.losses import (
    ActivationBoundaryLoss,
    AttentionTransferLoss,
    CCLoss,
    FactorTransferLoss,
    FSPLoss,
    NSTLoss,
    PKTLoss,
    RKDLoss,
    SPLoss,
    VIDLoss,
)
from icd_mmrazor.models.losses.hard_distillation_loss import HardDistillationLoss

MAPS = ('map_student', 'map_teacher')
VECTORS = ('vec_student', 'vec_teacher')
GOLDEN = {
    'fitnet': (dict(type='L2Loss', normalize=False, div_element=True), MAPS),
    'at': (dict(type='AttentionTransferLoss'), MAPS),
    'sp': (dict(type='SPLoss'), MAPS),
    'cc': (dict(type='CCLoss'), VECTORS),
    'rkd': (dict(type='RKDLoss'), VECTORS),
    'pkt': (dict(type='PKTLoss'), VECTORS),
    'nst': (dict(type='NSTLoss'), MAPS),
    'fsp': (dict(type='FSPLoss'), ('map_student', 'map_student_deep', 'map_teacher', 'map_teacher_deep')),
    'ft': (dict(type='FactorTransferLoss'), MAPS),
    'ab': (dict(type='ActivationBoundaryLoss'), MAPS),
}


def build(cfg: dict) -> nn.Module:
    return MODELS.build({'_scope_': 'mmrazor', **cfg})


def assert_golden(name: str, got: Tensor, want: np.ndarray) -> None:
    assert np.abs(got.numpy() - want).max() <= 1e-8 * np.abs(want).max(), name


@pytest.mark.parametrize('method', GOLDEN)
def test_golden_numbers(method: str) -> None:
    g = np.load(DATA / 'comparator_loss_vectors.npz')
    cfg, names = GOLDEN[method]
    features = {name: torch.from_numpy(g[name]).requires_grad_('student' in name) for name in names}
    value = build(cfg).double()(*features.values())
    value.backward()
    assert_golden('loss', value.detach(), g[f'{method}/loss'])
    for name in names:
        if 'student' in name:
            assert_golden(name, features[name].grad, g[f'{method}/grad_{name}'])


def test_golden_numbers_of_vid() -> None:
    g = np.load(DATA / 'comparator_loss_vectors.npz')
    student = torch.from_numpy(g['map_student_narrow']).requires_grad_()
    teacher = torch.from_numpy(g['map_teacher'])
    regressor = VIDRegressor(tuple(student.shape[1:]), tuple(teacher.shape[1:])).double()
    for index in (0, 2, 4):
        regressor.layers[index].weight.data.copy_(torch.from_numpy(g[f'vid/w{index}']))
    loss = VIDLoss(tuple(teacher.shape[1:])).double()
    # as initialised, to the precision of a float32 parameter
    np.testing.assert_allclose(loss.log_scale.detach().numpy(), g['vid/log_scale'], rtol=1e-7)
    loss.log_scale.data.copy_(torch.from_numpy(g['vid/log_scale']))

    value = loss(regressor(student), teacher)
    value.backward()
    got = dict(
        loss=value.detach(),
        grad_map_student_narrow=student.grad,
        grad_log_scale=loss.log_scale.grad,
        grad_w0=regressor.layers[0].weight.grad,
    )
    for name, tensor in got.items():
        assert_golden(name, tensor, g[f'vid/{name}'])


def test_mmrazors_factor_transfer_is_another_loss() -> None:
    g = np.load(DATA / 'comparator_loss_vectors.npz')
    value = build(dict(type='FTLoss'))(*(torch.from_numpy(g[name]) for name in MAPS))
    assert abs(value.item() / g['ft/loss'] - 1) > 0.1


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a: list[float]) -> list[float]:
    length = math.sqrt(dot(a, a))
    return [x / length for x in a]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def smooth_l1(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def halved(maps: Tensor) -> Tensor:
    """Average blocks of 2 x 2 pixels."""
    b, c, h, w = maps.shape
    return maps.reshape(b, c, h // 2, 2, w // 2, 2).mean((3, 5))


def to_one_size(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return (halved(s) if s.shape[2] > t.shape[2] else s), (halved(t) if t.shape[2] > s.shape[2] else t)


def slow_ab(s: Tensor, t: Tensor) -> float:
    pairs = zip(s.flatten().tolist(), t.flatten().tolist(), strict=True)
    missing = [max(1 - x, 0) if y > 0 else max(1 + x, 0) for x, y in pairs]
    return 3 / 1000 * sum(x * x for x in missing) / len(s)


def slow_attention(one: Tensor) -> list[float]:
    channels = one.flatten(1).tolist()
    return unit([mean([value * value for value in pixel]) for pixel in zip(*channels, strict=True)])


def slow_at(s: Tensor, t: Tensor) -> float:
    pairs = [(slow_attention(a), slow_attention(b)) for a, b in zip(*to_one_size(s, t), strict=True)]
    return mean([(x - y) ** 2 for a, b in pairs for x, y in zip(a, b, strict=True)])


def slow_ft(s: Tensor, t: Tensor) -> float:
    pairs = [(slow_attention(a), slow_attention(b)) for a, b in zip(*to_one_size(s, t), strict=True)]
    return mean([abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True)])


def slow_sp(s: Tensor, t: Tensor) -> float:
    s_rows, t_rows = ([unit([dot(a, b) for b in f]) for a in f] for f in (s.flatten(1).tolist(), t.flatten(1).tolist()))
    return mean([(x - y) ** 2 for a, b in zip(s_rows, t_rows, strict=True) for x, y in zip(a, b, strict=True)])


def slow_cc(s: Tensor, t: Tensor) -> float:
    d = [[abs(x - y) for x, y in zip(a, b, strict=True)] for a, b in zip(s.tolist(), t.tolist(), strict=True)]
    return mean([dot(a, b) for a, b in itertools.pairwise(d)])


def slow_pkt(s: Tensor, t: Tensor) -> float:
    def probabilities(rows: list[list[float]]) -> list[list[float]]:
        near = [[(dot(unit(a), unit(b)) + 1) / 2 for b in rows] for a in rows]
        return [[x / sum(row) for x in row] for row in near]

    p, q = probabilities(t.tolist()), probabilities(s.tolist())
    return mean([x * math.log(x / y) for a, b in zip(p, q, strict=True) for x, y in zip(a, b, strict=True)])


def slow_rkd(s: Tensor, t: Tensor) -> float:
    def distances(rows: list[list[float]]) -> list[float]:
        pairs = [math.dist(a, b) for a in rows for b in rows]
        # of an image to itself it is 0 and does not count
        return [d / mean([d for d in pairs if d]) for d in pairs]

    def angles(rows: list[list[float]]) -> list[float]:
        values = []
        for i, j, k in itertools.product(range(len(rows)), repeat=3):
            left, right = ([x - y for x, y in zip(rows[other], rows[i], strict=True)] for other in (j, k))
            values.append(dot(unit(left), unit(right)) if i not in (j, k) else 0.0)
        return values

    s_rows, t_rows = s.tolist(), t.tolist()
    distance = mean([smooth_l1(x - y) for x, y in zip(distances(s_rows), distances(t_rows), strict=True)])
    angle = mean([smooth_l1(x - y) for x, y in zip(angles(s_rows), angles(t_rows), strict=True)])
    return 25 * distance + 50 * angle


def slow_nst(s: Tensor, t: Tensor) -> float:
    def kernel(a: list[list[float]], b: list[list[float]]) -> float:
        return mean([dot(unit(x), unit(y)) ** 2 for x in a for y in b])

    images = [(a.flatten(1).tolist(), b.flatten(1).tolist()) for a, b in zip(*to_one_size(s, t), strict=True)]
    return mean([kernel(a, a) + kernel(b, b) - 2 * kernel(a, b) for a, b in images])


SLOW = {
    ActivationBoundaryLoss: slow_ab,
    AttentionTransferLoss: slow_at,
    FactorTransferLoss: slow_ft,
    SPLoss: slow_sp,
    CCLoss: slow_cc,
    PKTLoss: slow_pkt,
    RKDLoss: slow_rkd,
    NSTLoss: slow_nst,
}


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ('loss', 's_shape', 't_shape'),
    [
        (ActivationBoundaryLoss, (3, 4, 2, 2), (3, 4, 2, 2)),
        (AttentionTransferLoss, (3, 4, 8, 8), (3, 6, 4, 4)),
        (AttentionTransferLoss, (2, 4, 2, 6), (2, 4, 4, 12)),
        (FactorTransferLoss, (3, 4, 8, 8), (3, 6, 4, 4)),
        (FactorTransferLoss, (3, 4, 4, 4), (3, 4, 8, 8)),
        (SPLoss, (4, 3, 4, 4), (4, 5, 8, 8)),
        (SPLoss, (5, 7), (5, 3)),
        (CCLoss, (5, 7), (5, 7)),
        (CCLoss, (2, 3), (2, 3)),
        (PKTLoss, (5, 7), (5, 3)),
        (RKDLoss, (6, 7), (6, 3)),
        (RKDLoss, (2, 7), (2, 3)),
        (NSTLoss, (2, 4, 8, 8), (2, 6, 4, 4)),
        # few pixels and many channels: summed over pixels inside
        (NSTLoss, (2, 7, 2, 2), (2, 9, 4, 4)),
        (NSTLoss, (2, 2, 2, 2), (2, 12, 2, 2)),
    ],
    ids=str,
)
def test_equals_a_slow_rewrite(loss: type, s_shape: tuple, t_shape: tuple, dtype: torch.dtype) -> None:
    s, t = torch.randn(s_shape).to(dtype), torch.randn(t_shape).to(dtype)
    # PKT adds 1e-7 to numbers around 0.1 so that no logarithm is infinite; half precision is computed in float32
    bar = 1e-4 if dtype != torch.float64 else 1e-5 if loss is PKTLoss else 1e-9
    want = 2 * SLOW[loss](s.double(), t.double())
    assert loss(loss_weight=2.0)(s, t).item() == pytest.approx(want, rel=bar, abs=bar * 1e-3)


@pytest.mark.parametrize('sizes', [(8, 4, 8, 4), (4, 4, 8, 4), (4, 8, 2, 4)], ids=str)
def test_flow_equals_a_slow_rewrite(sizes: tuple[int, ...]) -> None:
    names, channels = ('s_bottom', 's_top', 't_bottom', 't_top'), (3, 2, 3, 2)
    maps = [torch.randn(2, c, size, size).double() for c, size in zip(channels, sizes, strict=True)]

    def flow(bottom: Tensor, top: Tensor) -> list[float]:
        bottom, top = to_one_size(bottom, top)
        pairs = itertools.product(range(len(bottom)), range(bottom.shape[1]), range(top.shape[1]))
        return [mean([x * y for x, y in zip(bottom[n, i].flatten(), top[n, j].flatten())]) for n, i, j in pairs]  # noqa: B905

    want = mean([(a - b) ** 2 for a, b in zip(flow(*maps[:2]), flow(*maps[2:]), strict=True)])
    got = FSPLoss(loss_weight=50.0)(**dict(zip(names, maps, strict=True)))
    assert got.item() == pytest.approx(50 * want.item(), rel=1e-12)


@pytest.mark.parametrize('shapes', [((4, 5, 3, 3), (4, 5, 3, 3)), ((4, 5, 3, 3), (4, 5, 6, 6))], ids=str)
def test_vid_is_a_gaussian_likelihood(shapes: tuple) -> None:
    mean_of_t, t = (torch.randn(shape).double() for shape in shapes)
    loss = VIDLoss((5, 6, 6), loss_weight=0.5).double()
    loss.log_scale.data.copy_(torch.linspace(-3, 30, 5))
    pooled = t if t.shape == mean_of_t.shape else halved(t)
    variance = (loss.log_scale.detach().exp() + 1).log() + 1e-5
    want = F.gaussian_nll_loss(mean_of_t, pooled, variance.view(1, 5, 1, 1).expand_as(pooled))
    assert loss(mean_of_t, t).item() == pytest.approx(0.5 * want.item(), rel=1e-9)


@pytest.mark.parametrize('variance', [1e-4, 0.1, 5.0, 1000.0])
def test_vid_starts_with_the_variance_it_is_given(variance: float) -> None:
    loss = VIDLoss((3, 4, 4), init_variance=variance)
    torch.testing.assert_close(F.softplus(loss.log_scale) + 1e-5, torch.full((3,), variance))


@pytest.mark.parametrize(
    ('cfg', 's_shape', 't_shape', 'named'),
    [
        (dict(type='SPLoss'), (4, 8), (5, 8), 'SPLoss .*batch sizes'),
        (dict(type='NSTLoss'), (4, 8, 2, 2), (5, 8, 2, 2), 'NSTLoss .*batch sizes'),
        (dict(type='CCLoss'), (4, 8), (4, 9), 'CCLoss .*widths.*LinearProjection'),
        (dict(type='VIDLoss', teacher_shape=(9,)), (4, 8, 2, 2), (4, 9, 4, 4), 'VIDLoss .*widths.*VIDRegressor'),
        (dict(type='VIDLoss', teacher_shape=(8,)), (4, 9, 2, 2), (4, 9, 2, 2), r'teacher_shape=\(8,\).*9 channels'),
        (dict(type='AttentionTransferLoss'), (4, 8), (4, 8), 'AttentionTransferLoss .*maps'),
        (dict(type='FactorTransferLoss'), (4, 8, 2, 2), (4, 8), 'FactorTransferLoss .*maps'),
        (dict(type='PKTLoss'), (0, 8), (0, 8), 'PKTLoss'),
        (dict(type='RKDLoss'), (8,), (8,), 'RKDLoss'),
        (dict(type='RRDLoss', embed_dims=8), (4, 8), (5, 8), 'RRDLoss .*batch sizes'),
        (dict(type='RRDLoss', embed_dims=8), (4, 8), (4, 9), 'RRDLoss .*widths'),
        (dict(type='RRDLoss', embed_dims=8), (4, 9), (4, 9), 'RRDLoss: embed_dims=8.*out_features=8'),
    ],
    ids=str,
)
def test_refuses_features_that_it_cannot_compare(cfg: dict, s_shape: tuple, t_shape: tuple, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        build(cfg)(torch.randn(s_shape), torch.randn(t_shape))


@pytest.mark.parametrize(
    ('t_bottom', 't_top', 'named'),
    [
        ((2, 4, 4, 4), (2, 5, 4, 4), '3 and 5 channels.* 4 and 5'),
        ((2, 3, 4, 4), (2, 6, 4, 4), '3 and 5 channels.* 3 and 6'),
        ((1, 3, 4, 4), (1, 5, 4, 4), 'batch sizes'),
        ((2, 3, 4, 4), (2, 5), 'four maps'),
    ],
)
def test_flow_refuses_maps_that_it_cannot_compare(t_bottom: tuple, t_top: tuple, named: str) -> None:
    with pytest.raises(SettingError, match=f'FSPLoss .*{named}'):
        FSPLoss()(torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4), torch.randn(t_bottom), torch.randn(t_top))


@pytest.mark.parametrize(
    ('cfg', 'named'),
    [
        (dict(type='SPLoss', loss_weight=math.nan), 'SPLoss: loss_weight=nan'),
        (dict(type='NSTLoss', loss_weight=None), 'NSTLoss: loss_weight=None'),
        (dict(type='ActivationBoundaryLoss', margin=math.inf), 'margin=inf'),
        (dict(type='RKDLoss', angle_weight='50'), "RKDLoss: angle_weight='50'"),
        (dict(type='RKDLoss', distance_weight=math.inf), 'RKDLoss: distance_weight=inf'),
        (dict(type='VIDLoss', teacher_shape=(8,), init_variance=0.0), 'init_variance=0.0'),
        (dict(type='VIDLoss', teacher_shape=8), 'VIDLoss: teacher_shape=8'),
    ],
    ids=str,
)
def test_refuses_settings_out_of_range(cfg: dict, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        build(cfg)


def test_maps_of_any_sizes_are_averaged() -> None:
    """If one size is not a multiple of the other, as torch's adaptive pooling does."""
    s, t = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 8, 5)
    assert NSTLoss()(s, t).item() == NSTLoss()(s, F.adaptive_avg_pool2d(t, 5)).item()


def test_hard_distillation_is_the_cross_entropy_with_the_decision_of_the_teacher() -> None:
    student, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        total -= math.log(math.exp(s[t.index(max(t))]) / sum(map(math.exp, s)))
    assert HardDistillationLoss(loss_weight=0.5)(student, teacher).item() == pytest.approx(0.5 * total / 5, rel=1e-12)


def test_hard_distillation_refuses_other_classes() -> None:
    with pytest.raises(SettingError, match='same classes'):
        HardDistillationLoss().check_shapes(s_feature=(10,), t_feature=(7,))


def test_settings_are_printed() -> None:
    assert repr(RKDLoss(2.0)) == 'RKDLoss(distance_weight=25.0, angle_weight=50.0, loss_weight=2.0)'
