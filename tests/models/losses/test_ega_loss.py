"""EGA against golden numbers of both releases, a slow rewrite, and what must not end a run."""

import math

import pytest
import torch
from golden_cases import GoldenCase, case_names
from mmrazor.registry import MODELS

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import LinearProjection
from icd_mmrazor.models.losses.ega_loss import EGALoss

HEADS = {
    role: {f'embed_{role}.{name}': f'{role}.linear.{name}' for name in ('weight', 'bias')}
    for role in ('student', 'teacher')
}


@pytest.mark.parametrize('name', case_names('ega', 'ega'))
def test_golden_numbers(name: str) -> None:
    case = GoldenCase('ega', name, 'ega')
    loss, features = EGALoss(**case.settings), case.inputs
    heads = torch.nn.ModuleDict()
    if case.of('param'):
        width = len(case.of('param')['embed_student.bias'])
        heads = torch.nn.ModuleDict({r: LinearProjection(features[r].shape[1], width) for r in HEADS}).double()
        case.load('param', heads, HEADS['student'] | HEADS['teacher'])
        # the authors clear the gradient that EGA gives it
        heads['teacher'].requires_grad_(False)
    parameters = {n: p for n, p in heads.named_parameters() if p.requires_grad}
    student, teacher = (heads[role](features[role]) if heads else features[role] for role in HEADS)
    theirs = {name: parameters[ours] for name, ours in HEADS['student'].items() if heads}
    case.check(loss(student, teacher), theirs)
    for weights, part in (((1, 0), 'node'), ((0, 1), 'edge')):
        assert EGALoss(*weights)(student, teacher).item() == pytest.approx(case.of('part')[part].item(), rel=1e-9)


def pearson(a: list[float], b: list[float]) -> float:
    centred = [[x - sum(row) / len(row) for x in row] for row in (a, b)]
    lengths = math.hypot(*centred[0]) * math.hypot(*centred[1])
    return sum(x * y for x, y in zip(*centred, strict=True)) / lengths if lengths > 1e-9 else 0.0


def slow(student: list, teacher: list, node_weight: float, edge_weight: float) -> float:
    pairs = [(i, j) for i in range(len(student)) for j in range(len(student))]
    nodes = sum((pearson(teacher[i], student[j]) - (i == j)) ** 2 for i, j in pairs)
    edges = sum((pearson(teacher[i], teacher[j]) - pearson(student[i], student[j])) ** 2 for i, j in pairs)
    return node_weight * math.sqrt(nodes) + edge_weight * math.sqrt(edges)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('shape', [(2, 3), (5, 9), (9, 4)], ids=str)
def test_equals_a_slow_rewrite(shape: tuple[int, int], dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(shape, dtype=dtype) * 2 + 3 for _ in range(2))
    want = 2 * slow(student.tolist(), teacher.tolist(), 0.7, 0.4)
    rel = 1e-10 if dtype == torch.float64 else 1e-4
    assert EGALoss(0.7, 0.4, loss_weight=2.0)(student, teacher).item() == pytest.approx(want, rel=rel)


@pytest.mark.parametrize('value', [0.0, 0.1, 1234.567])
def test_an_image_with_a_constant_embedding_correlates_with_none(value: float) -> None:
    for side in range(2):
        features = [torch.randn(6, 5) for _ in range(2)]
        features[side][2] = value
        features[0].requires_grad_()
        got = EGALoss()(*features)
        assert got.item() == pytest.approx(slow(features[0].tolist(), features[1].tolist(), 0.8, 0.24), rel=1e-4)
        (gradient,) = torch.autograd.grad(got, features[0])
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 10
        assert side == 1 or gradient[2].tolist() == [0.0] * 5


def test_a_student_with_the_teachers_graph_has_no_edge_loss() -> None:
    teacher = torch.randn(6, 5).double()
    student = (teacher * (1 + torch.rand(6, 1)) + torch.randn(6, 1)).requires_grad_()
    value = EGALoss(0, 1)(student, teacher)
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_the_teachers_embedding_stays_and_the_students_learns() -> None:
    cfg = recipes.compose('res20_res8_digits', ['ega']).model
    algorithm = MODELS.build({**cfg, 'teacher_ckpt': None, 'random_teacher': True}).train()
    trained = {name for name, p in algorithm.distiller.named_parameters() if p.requires_grad}
    assert trained == {f'connectors.ega_s_feature.linear.{name}' for name in ('weight', 'bias')}
    assert {c.linear.out_features for c in algorithm.distiller.connectors.values()} == {256}


def test_raw_features_of_two_widths_are_refused() -> None:
    with pytest.raises(SettingError, match=r'EGALoss .*widths.*\(4, 64\).*\(4, 128\).*LinearProjection'):
        EGALoss(1.0, 0.3)(torch.randn(4, 64), torch.randn(4, 128))


@pytest.mark.parametrize('setting', [dict(node_weight=-1), dict(edge_weight=math.nan), dict(loss_weight='a')], ids=str)
def test_bad_settings_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'EGALoss: {name}={value!r}'):
        EGALoss(**setting)
