"""VkD against golden numbers of its release and torch's parametrisation, and its projection under weight decay."""

import copy
import functools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from golden_cases import GoldenCase, case_names
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import OrthogonalProjection
from icd_mmrazor.models.losses.vkd_loss import VkDLoss

ORIGINAL, BASE = 'parametrizations.weight.original', 'parametrizations.weight.0.base'
# student, teacher
WIDTHS = [(3, 7), (7, 3), (5, 5), (1, 4), (4, 1)]


def projection_of(case: GoldenCase, student: Tensor, teacher: Tensor, prefix: str = '') -> OrthogonalProjection:
    """Return a projection with the parameters of a case."""
    affine = {'weight': 'scale', 'bias': 'shift'} if prefix else {}
    projection = OrthogonalProjection(student.shape[1:], teacher.shape[1:], affine=bool(affine)).double()
    case.load('param', projection, {f'{prefix}{ORIGINAL}': 'original', **affine})
    case.load('buffer', projection, {f'{prefix}{BASE}': 'base'})
    return projection


@pytest.mark.parametrize('name', case_names('vkd', 'vkd'))
def test_golden_numbers(name: str) -> None:
    case = GoldenCase('vkd', name, 'vkd')
    student, teacher = case.inputs['student'], case.inputs['teacher']
    projection, loss = projection_of(case, student, teacher), VkDLoss(loss_weight=case.settings['alpha'])
    parts = case.of('part')
    torch.testing.assert_close(projection.weight, parts['weight'], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(projection(student).mean(1), parts['projected'], rtol=1e-9, atol=1e-12)
    # a weight instead of its parameters, for its gradient
    weight = parts['weight'].clone().requires_grad_()
    values = loss(projection(student), teacher), loss(student @ weight.T, teacher)
    assert values[1].item() == pytest.approx(case.loss, rel=1e-9)
    (gradient,) = torch.autograd.grad(values[1], weight)
    expected = case.arrays.pop('vkd/grad/weight')
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    case.check(values[0], {ORIGINAL: projection.original})
    # the mean of the tokens comes before the projection or after it
    assert loss(projection(student.mean(1)), teacher.mean((2, 3))).item() == pytest.approx(case.loss, rel=1e-9)


@pytest.mark.parametrize('name', case_names('vkd', 'vkd_detection'))
def test_golden_numbers_of_detection(name: str) -> None:
    case = GoldenCase('vkd', name, 'vkd_detection')
    student, teacher = case.inputs['student_tokens'], case.inputs['teacher_tokens']
    projection = projection_of(case, student, teacher, prefix='projector.')
    torch.testing.assert_close(projection.weight, case.of('part')['weight'], rtol=1e-9, atol=1e-12)
    names = {'weight': projection.scale, 'bias': projection.shift, f'projector.{ORIGINAL}': projection.original}
    case.check(VkDLoss('batch')(projection(student), teacher), names)


def as_torchs(student: int, teacher: int) -> tuple[OrthogonalProjection, nn.Linear]:
    """Return a projection with random parameters, and torch's parametrised layer with the same."""
    projection = OrthogonalProjection((student,), (teacher,)).double()
    layer = orthogonal(nn.Linear(student, teacher, bias=False).double())
    with torch.no_grad():
        projection.original.normal_().fill_diagonal_(-1)
        layer.load_state_dict({ORIGINAL: projection.original, BASE: projection.base})
    return projection, layer


@pytest.mark.parametrize('widths', WIDTHS, ids=str)
def test_values_and_gradients_are_those_of_torchs_parametrisation(widths: tuple[int, int]) -> None:
    projection, layer = as_torchs(*widths)
    feature, direction = torch.randn(6, widths[0]).double(), torch.randn(6, widths[1]).double()
    gradients = []
    for module, parameter in ((projection, projection.original), (layer, layer.parametrizations.weight.original)):
        gradients += torch.autograd.grad((module(feature) * direction).sum(), parameter)
    torch.testing.assert_close(projection(feature), layer(feature), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    # of two square matrices of one number, none turns
    assert widths == (1, 1) or gradients[0].abs().max() > 1e-3


def distance_from_orthogonal(projection: OrthogonalProjection) -> float:
    weight = projection.weight.detach()
    small = weight if weight.shape[0] <= weight.shape[1] else weight.T
    return (small @ small.T - torch.eye(len(small), dtype=small.dtype)).abs().max().item()


@pytest.mark.parametrize('widths', WIDTHS, ids=str)
def test_it_starts_as_torchs_initialisation_orthogonalised(widths: tuple[int, int]) -> None:
    torch.manual_seed(7)
    layer = nn.Linear(*widths, bias=False)
    want = orthogonal(layer).weight
    torch.manual_seed(7)
    projection = OrthogonalProjection(widths[:1], widths[1:])
    torch.testing.assert_close(projection.weight, want, rtol=1e-5, atol=1e-6)
    assert distance_from_orthogonal(projection) < 1e-5


OPTIMIZERS: dict[str, Callable] = {
    'SGD, ours': functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4),
    'SGD, strong': functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    'AdamW, of the release': functools.partial(torch.optim.AdamW, lr=5e-4, weight_decay=0.05),
    'AdamW, strong': functools.partial(torch.optim.AdamW, lr=0.05, weight_decay=0.5),
}


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('widths', WIDTHS[:3], ids=str)
def test_weight_decay_leaves_it_orthogonal(widths: tuple[int, int], optimizer: str) -> None:
    student, teacher = torch.randn(32, widths[0]).double(), torch.randn(32, widths[1]).double()
    projection, loss = OrthogonalProjection(widths[:1], widths[1:]).double(), VkDLoss()
    norm, first = math.sqrt(min(widths)), projection.weight.detach()
    steps = OPTIMIZERS[optimizer](projection.parameters())
    for _ in range(20):
        steps.zero_grad()
        loss(projection(student), teacher).backward()
        steps.step()
        assert projection.weight.norm().item() == pytest.approx(norm, rel=1e-5)
        assert distance_from_orthogonal(projection) < 1e-5
    # and it turns
    assert (projection.weight - first).abs().max() > 1e-4


def test_weight_decay_ends_torchs_parametrisation() -> None:
    """When this fails, torch keeps the signs, and OrthogonalProjection may use it again."""
    layer = orthogonal(nn.Linear(3, 7, bias=False))
    steps = torch.optim.SGD(layer.parameters(), lr=0.05, weight_decay=5e-4)
    assert layer.weight.norm().item() == pytest.approx(math.sqrt(3), rel=1e-5)
    layer(torch.randn(5, 3)).square().sum().backward()
    steps.step()
    assert layer.weight.abs().max() == 0


def test_it_can_learn_a_rotation() -> None:
    target, student = torch.linalg.qr(torch.randn(6, 4).double())[0], torch.randn(64, 4).double()
    projection = OrthogonalProjection((4,), (6,)).double()
    steps = torch.optim.SGD(projection.parameters(), lr=2.0, momentum=0.9)
    values = []
    for _ in range(200):
        steps.zero_grad()
        value = F.smooth_l1_loss(projection(student), student @ target.T)
        value.backward()
        steps.step()
        values.append(value.item())
    assert values[-1] < 0.02 * values[0]


def slow(student: list, teacher: list) -> float:
    """Return the loss of rows, number by number."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        mean = sum(t) / len(t)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in t) / len(t) + 1e-5)
        for x, y in zip(s, t, strict=True):
            distance = abs(x - (y - mean) / deviation)
            total += distance**2 / 2 if distance < 1 else distance - 0.5
    return total / (len(student) * len(student[0]))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('form', ['pooled', 'tokens', 'map'])
def test_equals_a_slow_rewrite(form: str, dtype: torch.dtype) -> None:
    student, teacher = torch.randn(5, 6, 4).to(dtype), (3 * torch.randn(5, 6, 4)).to(dtype)
    means = [each.double().mean(1) for each in (student, teacher)]
    if form == 'map':
        student, teacher = (each.transpose(1, 2).reshape(5, 4, 2, 3) for each in (student, teacher))
    elif form == 'pooled':
        student, teacher = (each.to(dtype) for each in means)
        means = [student, teacher]
    got = VkDLoss(loss_weight=2.0)(student, teacher).item()
    rel = 1e-10 if dtype == torch.float64 else 1e-5
    assert got == pytest.approx(2 * slow(*(each.tolist() for each in means)), rel=rel)


def test_detection_standardises_over_all_tokens_of_a_batch() -> None:
    student, teacher = torch.randn(3, 4, 5).double(), torch.randn(3, 4, 5).double() * 3 + 2
    rows = [(each - each.mean((0, 1))) / each.flatten(0, 1).std(0) for each in (student, teacher)]
    want = F.smooth_l1_loss(*rows).item()
    loss = VkDLoss('batch')
    assert loss(student, teacher).item() == pytest.approx(want, rel=1e-12)
    as_map = teacher.transpose(1, 2).reshape(3, 5, 2, 2)
    assert loss(student, as_map).item() == pytest.approx(want, rel=1e-12)
    # a dead unit is not compared, but the others are
    student[:, :, 1] = 4.0
    rows[0][:, :, 1] = 0
    assert loss(student, teacher).item() == pytest.approx(F.smooth_l1_loss(*rows).item(), rel=1e-12)


VIT = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=16),
)
# of the page
PATCHES = dict(
    s_feature=dict(network='student', feature='patch_tokens', connector=dict(type='OrthogonalProjection')),
    t_feature=dict(network='teacher', feature='pooled'),
)


@pytest.mark.parametrize('wide', [True, False])
def test_patch_tokens_of_a_transformer_learn_from_a_pooled_feature(wide: bool) -> None:
    teacher = dict(
        type='ImageClassifier',
        backbone=dict(type='CIFARResNet', depth=8, stem_channels=8, base_channels=8 if wide else 2),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=32 if wide else 8),
    )
    algorithm = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=copy.deepcopy(VIT),
            teacher=teacher,
            random_teacher=True,
            distiller=dict(
                _scope_='mmrazor',
                type='FeatureDistiller',
                losses=dict(vkd=dict(loss=dict(type='VkDLoss'), inputs=PATCHES)),
            ),
        )
    ).train()
    algorithm.init_weights()
    (connector,) = algorithm.distiller.connectors.values()
    assert connector.original.shape == (32 if wide else 8, 16)
    losses = algorithm(torch.randn(3, 3, 32, 32), [DataSample().set_gt_label(i) for i in range(3)], mode='loss')
    losses['distill.loss_vkd'].backward()
    assert connector.original.grad.abs().max() > 0
    assert algorithm.architecture.backbone.patch_embed.projection.weight.grad.abs().max() > 0


@pytest.mark.slow
def test_it_is_compiled_without_breaks() -> None:
    projection, loss = OrthogonalProjection((4,), (6,)), VkDLoss()

    def step(student: Tensor, teacher: Tensor) -> Tensor:
        return loss(projection(student), teacher)

    features = torch.randn(3, 4), torch.randn(3, 6)
    compiled = torch.compile(step, backend='aot_eager', fullgraph=True)
    assert compiled(*features).item() == pytest.approx(step(*features).item(), rel=1e-6)


def test_the_benchmark_has_kd_alone_but_not_together() -> None:
    alone, beside = (recipes.compose_distiller(methods) for methods in (['vkd'], ['vkd', 'icd']))
    assert [*alone['losses']] == ['vkd', 'vkd_kd']
    assert alone['losses']['vkd_kd']['loss'] == dict(type='KLDivergence', tau=1.0)
    assert beside['distillers']['vkd']['losses'] == dict(vkd=alone['losses']['vkd'])


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        (dict(student_shape=(3, 4, 4)), r'student_shape=\(3, 4, 4\) must be \(C,\) or \(N, C\)'),
        (dict(teacher_shape=None), r'teacher_shape=None must be \(C,\) or \(N, C\) or \(C, H, W\)'),
        (dict(affine=1), 'affine=1'),
    ],
    ids=str,
)
def test_bad_settings_of_the_projection_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'OrthogonalProjection: {message}'):
        OrthogonalProjection(**{'student_shape': (3,), 'teacher_shape': (4,), **setting})


@pytest.mark.parametrize('shape', [(5, 4), (5, 2, 4), (5, 3, 2, 2), (3,)], ids=str)
def test_other_features_are_refused_by_the_projection(shape: tuple) -> None:
    with pytest.raises(SettingError, match=r'OrthogonalProjection\(student_shape=\(3,\)\).*patch_tokens'):
        OrthogonalProjection((3,), (4,))(torch.randn(shape))


@pytest.mark.parametrize('setting', [dict(normalize='layer'), dict(loss_weight=math.nan)], ids=str)
def test_bad_settings_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'VkDLoss: {name}={value!r}'):
        VkDLoss(**setting)


def test_tokens_of_other_numbers_are_refused_where_each_is_compared() -> None:
    with pytest.raises(SettingError, match=r"normalize='batch'.*numbers differ.*\(2, 4, 5\).*\(2, 5, 3, 3\)"):
        VkDLoss('batch')(torch.randn(2, 4, 5), torch.randn(2, 5, 3, 3))
    assert VkDLoss()(torch.randn(2, 4, 5), torch.randn(2, 5, 3, 3)) > 0


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        (((5, 3), (5, 4)), 'widths.*OrthogonalProjection'),
        (((5, 3), (6, 3)), 'batch sizes'),
        (((5,), (5,)), 'pooled'),
    ],
    ids=str,
)
def test_features_that_cannot_be_compared_are_refused(shapes: tuple, message: str) -> None:
    with pytest.raises(SettingError, match=f'VkDLoss .*{message}'):
        VkDLoss()(*(torch.randn(shape) for shape in shapes))
