"""ICKD against golden numbers of the published code, a slow rewrite, and its properties."""

import math

import numpy as np
import pytest
import torch
from helpers import DATA
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import PointwiseRegressor
from icd_mmrazor.models.losses.ickd_loss import ICKDLoss


@pytest.mark.parametrize('case', ['default', 'hetero'])
def test_golden_numbers(case: str) -> None:
    arrays = np.load(DATA / 'ickd.npz')
    g = {name.removeprefix(f'{case}/'): torch.from_numpy(arrays[name]) for name in arrays.files if case in name}
    g |= {name.removeprefix('ickd/'): value for name, value in g.items()}
    student, teacher = g['student'].requires_grad_(), g['teacher']
    connector = PointwiseRegressor(student.shape[1:], teacher.shape[1:]).double()
    names = {'embed_s.conv2d': '0', 'embed_s.l2norm': '1'}
    state = {
        f'layers.{names[module]}.{key}': value
        for name, value in g.items()
        if name.startswith(('param/', 'buffer_before/'))
        for module, _, key in [name.partition('/')[2].rpartition('.')]
    }
    connector.load_state_dict(state, strict=False)
    value = ICKDLoss(loss_weight=1.0)(embedded := connector(student), teacher)
    value.backward()
    weight = g['setting/weight'].item()
    norm = connector.layers[1]
    got = {
        'loss': value,
        'part/weighted': ICKDLoss(loss_weight=weight)(embedded, teacher),
        'part/imagenet': value / len(student),
        'grad/student': student.grad,
        'grad/embed_s.conv2d.weight': connector.layers[0].weight.grad,
        'grad/embed_s.l2norm.weight': norm.weight.grad,
        'grad/embed_s.l2norm.bias': norm.bias.grad,
        'buffer_after/embed_s.l2norm.running_mean': norm.running_mean,
        'buffer_after/embed_s.l2norm.running_var': norm.running_var,
    }
    assert {*got} == {name for name in g if name.startswith(('loss', 'part/', 'grad/', 'buffer_after/'))}
    for name, value in got.items():
        torch.testing.assert_close(
            value.detach(), g[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f'{name}: {text}'
        )


def slow_ickd(student: Tensor, teacher: Tensor) -> float:
    def correlations(image: Tensor) -> list[list[float]]:
        channels = image.flatten(1).tolist()
        rows = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in channels] for a in channels]
        return [[x / (math.hypot(*row) or 1.0) for x in row] for row in rows]

    distances = []
    for s, t in zip(student, teacher, strict=True):
        for a, b in zip(correlations(s), correlations(t), strict=True):
            distances.append(math.dist(a, b) ** 2)
    return sum(distances) / len(distances)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ('s_shape', 't_shape'), [((3, 4, 2, 2), (3, 4, 2, 2)), ((1, 5, 3, 4), (1, 5, 2, 1)), ((4, 1, 2, 2), (4, 1, 5, 5))]
)
def test_equals_a_slow_rewrite(s_shape: tuple, t_shape: tuple, dtype: torch.dtype) -> None:
    s, t = torch.randn(s_shape).to(dtype), torch.randn(t_shape).to(dtype)
    s[0, 0] = 0  # a dead channel
    want = 2.5 * slow_ickd(s.double(), t.double())
    got = ICKDLoss(loss_weight=2.5)(s, t)
    assert got.item() == pytest.approx(want, rel=1e-12 if dtype == torch.float64 else 1e-4)


def test_the_scale_of_the_teacher_and_the_order_of_the_pixels_do_not_matter() -> None:
    s, t = torch.randn(2, 3, 5, 4, 4).double()
    loss = ICKDLoss()
    assert loss(s, 7 * t).item() == pytest.approx(loss(s, t).item(), rel=1e-12)
    assert loss(s, t.flip(2, 3)).item() == pytest.approx(loss(s, t).item(), rel=1e-12)
    assert loss(s, t.flip(1)).item() != pytest.approx(loss(s, t).item(), rel=1e-3)


def test_the_benchmark_has_the_published_settings() -> None:
    entry = recipes.compose('res56_res20_cifar100', ['ickd']).model.distiller.losses.ickd
    assert entry.loss == dict(type='ICKDLoss', loss_weight=2.5)
    assert (entry.features, entry.student_connector) == ('last_map', dict(type='PointwiseRegressor'))


@pytest.mark.parametrize(
    ('s_shape', 't_shape', 'named'),
    [
        ((4, 8, 2, 2), (5, 8, 2, 2), 'batch sizes'),
        ((4, 8, 2, 2), (4, 9, 2, 2), 'widths differ.*PointwiseRegressor'),
        ((4, 8), (4, 8), 'takes two maps'),
        ((0, 8, 2, 2), (0, 8, 2, 2), 'takes two maps'),
    ],
    ids=str,
)
def test_refuses_features(s_shape: tuple, t_shape: tuple, named: str) -> None:
    with pytest.raises(SettingError, match=f'ICKDLoss .*{named}'):
        ICKDLoss()(torch.randn(s_shape), torch.randn(t_shape))


def test_refuses_settings() -> None:
    with pytest.raises(SettingError, match='ICKDLoss: loss_weight=nan'):
        ICKDLoss(loss_weight=math.nan)
