"""RSD against golden numbers of its release, a slow rewrite, and small batches."""

import math

import pytest
import torch
from golden_cases import GoldenCase, case_names
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import RSDProjector
from icd_mmrazor.models.losses.rsd_loss import RSDLoss

PARAMETERS = {f'projector.{name}': f'layers.{name}' for name in ('0.weight', '1.weight', '1.bias', '3.weight')}
BUFFERS = {f'projector.1.{name}': f'layers.1.{name}' for name in ('running_mean', 'running_var')}


@pytest.mark.parametrize('name', case_names('rsd', 'rsd'))
def test_golden_numbers(name: str) -> None:
    case = GoldenCase('rsd', name, 'rsd')
    student, teacher = case.inputs['student'], case.inputs['teacher']
    projector = RSDProjector(student.shape[1:], teacher.shape[1:], case.settings['gamma']).double()
    case.load('param', projector, PARAMETERS)
    case.load('buffer_before', projector, BUFFERS)
    projected = projector(student)
    loss = RSDLoss(case.settings['kappa'], loss_weight=case.settings['weight'])
    parameters, buffers = dict(projector.named_parameters()), dict(projector.named_buffers())
    case.check(loss(projected, teacher), {theirs: parameters[ours] for theirs, ours in PARAMETERS.items()})
    unweighted = RSDLoss(case.settings['kappa'])(projected, teacher).item()
    assert unweighted == pytest.approx(case.of('part')['unweighted'].item(), rel=1e-9)
    for theirs, want in case.of('buffer_after').items():
        torch.testing.assert_close(buffers[BUFFERS[theirs]], want, rtol=1e-9, atol=1e-12)


def columns(feature: Tensor) -> list[list[float]]:
    standardised = []
    for column in zip(*feature.tolist(), strict=True):
        mean = sum(column) / len(column)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / len(column))
        standardised.append([(x - mean) / (deviation + 1e-5) for x in column])
    return standardised


def slow(student: Tensor, teacher: Tensor, kappa: float) -> float:
    total = 0.0
    for i, t in enumerate(columns(teacher)):
        for j, s in enumerate(columns(student)):
            correlation = sum(x * y for x, y in zip(t, s, strict=True)) / len(t)
            total += (correlation - 1) ** 2 if i == j else kappa * correlation**2
    return total


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('shape', [(2, 3), (5, 7), (30, 4)], ids=str)
def test_equals_a_slow_rewrite(shape: tuple[int, int], dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(shape, dtype=dtype) * 2 - 1 for _ in range(2))
    want = 0.3 * slow(student, teacher, 0.2)
    rel = 1e-10 if dtype == torch.float64 else 1e-4
    assert RSDLoss(0.2, loss_weight=0.3)(student, teacher).item() == pytest.approx(want, rel=rel)


@pytest.mark.parametrize('value', [0.0, 0.1, 1234.567])
def test_a_dead_unit_gets_no_gradient(value: float) -> None:
    student, teacher = torch.randn(7, 4), torch.randn(7, 4)
    student[:, 2] = value
    student.requires_grad_()
    got = RSDLoss(0.2)(student, teacher)
    want = slow(torch.cat([student[:, :2], 0 * student[:, 2:3], student[:, 3:]], dim=1), teacher, 0.2)
    assert got.item() == pytest.approx(want, rel=1e-4)
    (gradient,) = torch.autograd.grad(got, student)
    assert gradient[:, 2].tolist() == [0.0] * 7
    assert 0 < gradient.abs().max() < 10


def test_the_projector_is_as_published() -> None:
    projector = RSDProjector((50,), (70,), ratio=3)
    kinds = [type(layer) for layer in projector.layers]
    assert issubclass(kinds.pop(1), nn.BatchNorm1d)
    assert kinds == [nn.Linear, nn.GELU, nn.Linear]
    shapes = [(150, 50), (150,), (150,), (70, 150)]
    assert [tuple(parameter.shape) for parameter in projector.parameters()] == shapes
    for layer in (projector.layers[0], projector.layers[3]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert projector.layers[2].approximate == 'none'


def test_a_single_image_is_projected_and_changes_no_statistics() -> None:
    projector = RSDProjector((5,), (4,)).train()
    projector(3 + torch.randn(20, 5))
    before = {name: buffer.clone() for name, buffer in projector.named_buffers()}
    image = torch.randn(1, 5, requires_grad=True)
    got = projector(image)
    RSDLoss()(got, torch.randn(1, 4)).backward()
    assert image.grad.abs().max() == 0
    assert all(torch.equal(buffer, before[name]) for name, buffer in projector.named_buffers())
    torch.testing.assert_close(got, projector.eval()(image))


def test_the_projector_is_exact_under_autocast() -> None:
    projector, feature = RSDProjector((5,), (4,)), 1000 * torch.randn(6, 5)
    want = projector(feature.bfloat16().float())
    with torch.autocast('cpu', torch.bfloat16):
        got = projector(feature.bfloat16())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)


def test_the_benchmark_has_the_published_settings() -> None:
    entry = recipes.compose_distiller(['rsd'])['losses']['rsd']
    assert entry['loss'] == dict(type='RSDLoss', loss_weight=0.1)
    assert RSDLoss().kappa == 0.01
    assert RSDProjector((3,), (4,)).layers[0].out_features == 6


@pytest.mark.parametrize('setting', [dict(kappa=-0.01), dict(kappa=None), dict(loss_weight='a')], ids=str)
def test_bad_settings_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'RSDLoss: {name}={value!r}'):
        RSDLoss(**setting)


@pytest.mark.parametrize('setting', [dict(student_shape=(3, 2, 2)), dict(teacher_shape=4), dict(ratio=0)], ids=str)
def test_bad_settings_of_the_projector_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError) as error:
        RSDProjector(**{'student_shape': (3,), 'teacher_shape': (4,), **setting})
    assert f'RSDProjector: {name}={value!r}' in str(error.value)


@pytest.mark.parametrize('shape', [(5, 4), (5, 3, 2, 2)], ids=str)
def test_other_features_are_refused_by_the_projector(shape: tuple) -> None:
    with pytest.raises(SettingError, match=r'RSDProjector\(student_shape=\(3,\)\).*pooled'):
        RSDProjector((3,), (4,))(torch.randn(shape))


def test_features_of_two_widths_are_refused_with_the_connector() -> None:
    with pytest.raises(SettingError, match=r'RSDLoss .*widths.*RSDProjector'):
        RSDLoss()(torch.randn(5, 3), torch.randn(5, 4))
