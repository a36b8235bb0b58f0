"""SRD against golden numbers of its three forms, a slow rewrite, and what must not end a run."""

import math

import pytest
import torch
from golden_cases import GoldenCase, case_names
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import LinearProjection
from icd_mmrazor.models.losses.srd_loss import SRDLoss

FORMS = dict(
    srd=dict(compares='features'),
    srd_correlation=dict(compares='correlations'),
    srd_deit=dict(compares='correlations', bn_eps=0.0, log_eps=1e-5),
)
PARAMETERS = {f'embed.{name}': f'linear.{name}' for name in ('weight', 'bias')}


def projection_of(case: GoldenCase) -> LinearProjection:
    width = case.inputs['student'].shape[1]
    projection = LinearProjection(width, None, teacher_shape=case.inputs['teacher'].shape[1:]).double()
    case.load('param', projection, PARAMETERS)
    return projection


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name', case_names('srd', 'srd'))
def test_golden_numbers(name: str, form: str) -> None:
    case = GoldenCase('srd', name, form)
    assert case.settings['eps'] == FORMS[form].get('bn_eps', 1e-4)
    weight = case.settings.get('weight_representation', case.settings.get('weight', 1.0))
    projection, loss = projection_of(case), SRDLoss(**FORMS[form], loss_weight=weight)
    value = loss(projection(case.inputs['student']), case.inputs['teacher'])
    if form == 'srd':
        assert value.item() == pytest.approx(2 * case.of('part')['representation'].item(), rel=1e-9)
        logit = MODELS.build(dict(recipes.compose_distiller(['srd'])['losses']['srd_kd']['loss'], _scope_='mmrazor'))(
            case.inputs['student_logits'], case.inputs['teacher_logits']
        )
        assert logit.item() == pytest.approx(case.of('part')['logit'].item(), rel=1e-9)
        value = value + logit
    parameters = dict(projection.named_parameters())
    case.check(value, {theirs: parameters[ours] for theirs, ours in PARAMETERS.items()})


def normalised(rows: list[list[float]], eps: float) -> list[list[float]]:
    columns = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        columns.append([(x - mean) / math.sqrt(variance + eps) for x in column])
    return columns


def slow(student: list, teacher: list, compares: str, bn_eps: float, log_eps: float) -> float:
    total = log_eps
    for s, t in zip(normalised(student, bn_eps), normalised(teacher, bn_eps), strict=True):
        if compares == 'features':
            total += sum((x - y) ** 4 for x, y in zip(s, t, strict=True))
        else:
            total += (sum(x * y for x, y in zip(s, t, strict=True)) / len(s) - 1) ** 4
    return math.log(total)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('eps', [(1e-4, 1e-12), (0.0, 1e-5), (0.5, 0.1)], ids=str)
@pytest.mark.parametrize('compares', ['features', 'correlations'])
@pytest.mark.parametrize('shape', [(2, 3), (8, 5)], ids=str)
def test_equals_a_slow_rewrite(
    shape: tuple[int, int], compares: str, eps: tuple[float, float], dtype: torch.dtype
) -> None:
    student, teacher = (torch.randn(shape, dtype=dtype) * 3 + 1 for _ in range(2))
    loss = SRDLoss(compares, *eps, loss_weight=3.0)
    want = slow(student.tolist(), teacher.tolist(), compares, *eps)
    rel = 1e-10 if dtype == torch.float64 else 1e-4
    assert loss(student, teacher).item() == pytest.approx(3 * want, rel=rel)


@pytest.mark.parametrize('form', FORMS)
def test_perfect_agreement_is_finite(form: str) -> None:
    """With the gradients of a student that is nearly there, too."""
    teacher = torch.randn(16, 8)
    for distance in (0.0, 1e-7, 1e-4, 1e-2):
        student = (teacher + distance * torch.randn(16, 8)).requires_grad_()
        value = SRDLoss(**FORMS[form])(student, teacher)
        (gradient,) = torch.autograd.grad(value, student)
        assert math.log(1e-12) - 1e-3 <= value.item() < 0
        assert gradient.norm() < 1e4
        if distance == 0:
            assert gradient.abs().max() < 0.1


def test_the_gradient_grows_as_the_errors_shrink() -> None:
    """Until its epsilon counts, which is far below any error of a training."""
    teacher, direction = torch.randn(2, 32, 8).double()
    norms = []
    for distance in (0.02, 0.01):
        student = (teacher + distance * direction).requires_grad_()
        norms.append(torch.autograd.grad(SRDLoss()(student, teacher), student)[0].norm().item())
    # half the error, twice the gradient
    assert norms[1] / norms[0] == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize('value', [0.0, 0.1, 1234.567])
def test_a_dead_unit_of_the_deit_form_counts_as_uncorrelated(value: float) -> None:
    loss = SRDLoss(**FORMS['srd_deit'])
    for side in range(2):
        features = [torch.randn(7, 4) for _ in range(2)]
        features[side][:, 2] = value
        features[0].requires_grad_()
        got = loss(*features)
        others = [torch.cat([each[:, :2], each[:, 3:]], dim=1).tolist() for each in features]
        want = math.log(math.exp(slow(*others, 'correlations', 0.0, 1e-5)) + 1)
        assert got.item() == pytest.approx(want, rel=1e-4)
        (gradient,) = torch.autograd.grad(got, features[0])
        assert gradient[:, 2].tolist() == [0.0] * 7
        assert 0 < gradient.abs().max() < 10


def test_twice_the_images_cost_log_2_more() -> None:
    student, teacher = torch.randn(2, 6, 5).double()
    once, twice = (
        SRDLoss()(s, t).item() for s, t in ((student, teacher), (student.repeat(2, 1), teacher.repeat(2, 1)))
    )
    assert twice - once == pytest.approx(math.log(2), rel=1e-9)


def test_the_scale_and_shift_of_both_networks_do_not_matter() -> None:
    def of(student: Tensor, teacher: Tensor) -> float:
        return SRDLoss(**FORMS['srd_deit'])(student, teacher).item()

    student, teacher, scale = *torch.randn(2, 6, 5).double(), torch.rand(5).double() + 0.5
    assert of(student * scale + 3, teacher) == pytest.approx(of(student, teacher), rel=1e-9)
    assert of(student, teacher * scale - 3) == pytest.approx(of(student, teacher), rel=1e-9)


def test_the_benchmark_has_kd_alone_but_not_together() -> None:
    alone, beside = (recipes.compose_distiller(methods) for methods in (['srd'], ['srd', 'kd']))
    assert {*alone['losses']} == {'srd', 'srd_kd'}
    assert alone['losses']['srd']['features'] == 'pooled'
    assert alone['losses']['srd_kd']['inputs']['preds_S']['feature'] == 'distillation_logits'
    assert alone['losses']['srd_kd']['loss'] == dict(type='KLDivergence', tau=1.0)
    assert [*beside['distillers']['srd']['losses']] == ['srd']
    assert beside['distillers']['srd']['losses']['srd'] == alone['losses']['srd']


@pytest.mark.parametrize(
    'setting', [dict(compares='logits'), dict(bn_eps=-1e-4), dict(log_eps=0.0), dict(loss_weight='a')], ids=str
)
def test_bad_settings_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'SRDLoss: {name}={value!r}'):
        SRDLoss(**setting)


def test_features_of_two_widths_are_refused_with_the_connector() -> None:
    with pytest.raises(SettingError, match=r'SRDLoss .*widths.*LinearProjection\(out_features=None\)'):
        SRDLoss()(torch.randn(5, 3), torch.randn(5, 4))


def test_a_projection_to_the_teachers_width_needs_its_shape() -> None:
    with pytest.raises(SettingError, match=r'LinearProjection: teacher_shape=None must be \(C,\)'):
        LinearProjection(3, None)
    with pytest.raises(SettingError, match=r'LinearProjection: teacher_shape=\(4, 2, 2\) must be \(C,\)'):
        LinearProjection(3, out_features=None, teacher_shape=(4, 2, 2))
    assert LinearProjection(3, teacher_shape=(4, 2, 2))(torch.randn(2, 3)).shape == (2, 128)
