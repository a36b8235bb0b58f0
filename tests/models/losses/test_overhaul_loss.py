"""OFD against golden numbers of the published code, mmrazor's own loss, a slow rewrite, and the teacher's norms."""

import math
import statistics

import numpy as np
import pytest
import torch
from helpers import DATA, shipped
from mmrazor.models.distillers import OFDDistiller
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import PointwiseRegressor
from icd_mmrazor.models.losses.overhaul_loss import OverhaulLoss, margin_of


def norm_of(weight: Tensor, bias: Tensor) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(weight), dtype=weight.dtype)
    norm.weight.data.copy_(weight)
    norm.bias.data.copy_(bias)
    return norm


@pytest.mark.parametrize('case', ['default', 'four'])
def test_golden_numbers(case: str) -> None:
    arrays = np.load(DATA / 'ofd.npz')
    g = {name.removeprefix(f'{case}/'): torch.from_numpy(arrays[name]) for name in arrays.files if case in name}
    g |= {name.removeprefix('ofd/'): value for name, value in g.items()}
    stages, divisor = sum(name.startswith('student_') for name in g), g['setting/divisor'].item()
    got: dict[str, Tensor] = {}
    total = torch.zeros((), dtype=torch.float64)
    students, connectors = [], []
    for i in range(stages):
        student, teacher = g[f'student_{i}'].requires_grad_(), g[f'teacher_{i}']
        connector = PointwiseRegressor(student.shape[1:], teacher.shape[1:], initialization='fan_out').double()
        names = {f'param/connectors.{i}.', f'buffer_before/connectors.{i}.'}
        state = {
            f'layers.{name.removeprefix(n)}': value for n in names for name, value in g.items() if n in name[: len(n)]
        }
        connector.load_state_dict(state, strict=False)
        loss = OverhaulLoss(norm_of(g[f'teacher_bn_{i}.weight'], g[f'teacher_bn_{i}.bias']), divisor)
        value = loss(connector(student), teacher)
        total = total + 2.0 ** (i + 1 - stages) * value
        got |= {f'part/margin_{i}': loss.margin, f'part/sum_{i}': divisor * len(student) * value}
        students.append(student)
        connectors.append(connector)
    total.backward()
    got |= {'loss': total, 'part/mmrazor_loss': total}
    for i, (student, connector) in enumerate(zip(students, connectors, strict=True)):
        got[f'grad/student_{i}'] = student.grad
        got |= {f'grad/connectors.{i}.{name}': p.grad for name, p in connector.layers.named_parameters()}
        norm = connector.layers[1]
        got[f'buffer_after/connectors.{i}.1.running_mean'] = norm.running_mean
        got[f'buffer_after/connectors.{i}.1.running_var'] = norm.running_var
    assert {*got} == {name for name in g if name.startswith(('loss', 'part/', 'grad/', 'buffer_after/'))}
    for name, value in got.items():
        torch.testing.assert_close(
            value.detach(), g[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f'{name}: {text}'
        )


def slow_margin(weight: float, bias: float) -> float:
    normal = statistics.NormalDist(bias, abs(weight))
    negative = normal.cdf(0.0)
    if negative <= 0.001:
        return -3 * abs(weight)
    # the integral of x p(x) below 0, by the midpoint rule
    low, steps = bias - 12 * abs(weight), 20_000
    width = (0.0 - low) / steps
    middles = [low + (i + 0.5) * width for i in range(steps)]
    return sum(x * normal.pdf(x) for x in middles) * width / negative


@pytest.mark.parametrize(
    ('weight', 'bias'), [(1.0, 0.0), (-0.5, 0.7), (2.0, -3.0), (0.1, 0.3), (0.1, 0.32), (0.3, -2.0)]
)
def test_the_margin_is_the_mean_of_the_negative_values(weight: float, bias: float) -> None:
    margin = margin_of(norm_of(torch.tensor([weight]).double(), torch.tensor([bias]).double()))
    assert margin.item() == pytest.approx(slow_margin(weight, bias), rel=1e-5)
    mmrazors = OFDDistiller()._get_margin_from_BN(norm_of(torch.tensor([weight]), torch.tensor([bias])))
    assert margin.item() == pytest.approx(mmrazors.item(), rel=1e-5)


@pytest.mark.parametrize(('bias', 'margin'), [(-0.5, -0.5), (0.5, 0.0), (0.0, 0.0)])
def test_the_margin_of_a_constant_channel_is_its_limit(bias: float, margin: float) -> None:
    norm = norm_of(torch.zeros(1), torch.tensor([bias]))
    assert margin_of(norm).item() == pytest.approx(margin, abs=1e-30)
    with pytest.raises(ZeroDivisionError):
        OFDDistiller()._get_margin_from_BN(norm)


def test_a_norm_without_parameters_has_the_margin_of_the_standard_normal_distribution() -> None:
    margin = margin_of(nn.BatchNorm2d(3, affine=False))
    torch.testing.assert_close(margin, torch.full((3,), -math.sqrt(2 / math.pi)))


def slow_ofd(student: Tensor, teacher: Tensor, margin: Tensor) -> float:
    total = 0.0
    for c, m in enumerate(margin.tolist()):
        for x, y in zip(student[:, c].flatten().tolist(), teacher[:, c].flatten().tolist(), strict=True):
            target = max(y, m)
            if y > 0 or x > target:
                total += (x - target) ** 2
    return total / len(student) / 1000


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('shape', [(1, 2, 3, 3), (4, 5, 2, 1)])
def test_equals_a_slow_rewrite(shape: tuple, dtype: torch.dtype) -> None:
    s, t = (2 * torch.randn(2, *shape)).to(dtype)
    loss = OverhaulLoss(norm_of(torch.rand(shape[1]).double() + 0.1, torch.randn(shape[1]).double()), loss_weight=0.5)
    want = 0.5 * slow_ofd(s.double(), t.double(), loss.margin)
    assert loss(s, t).item() == pytest.approx(want, rel=1e-12 if dtype == torch.float64 else 1e-5)
    # the larger map is averaged
    doubled = t.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert loss(s, doubled).item() == pytest.approx(want, rel=1e-12 if dtype == torch.float64 else 1e-2)


def test_only_the_student_learns_and_no_checkpoint_has_the_margin() -> None:
    s, t = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    loss = OverhaulLoss(nn.BatchNorm2d(3))
    loss(s, t).backward()
    assert s.grad.abs().sum() > 0
    assert t.grad is None
    assert not [*loss.parameters(), *loss.state_dict()]


def randomised(module: nn.Module) -> nn.Module:
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.weight)
            nn.init.normal_(each.bias)
    return module


# the teacher's batch norm before the last activation of each stage
NORMS = {
    'res56_res20_cifar100': ['layer1.8.bn2', 'layer2.8.bn2', 'layer3.8.bn2'],
    'wrn40-2_wrn16-2_cifar100': ['layer2.0.bn1', 'layer3.0.bn1', 'bn1'],
    'vgg13_vgg8_cifar100': ['features.4.bn', 'features.7.bn', 'features.10.bn', 'features.13.bn'],
    'res50_mobilenetv2_cifar100': ['layer1.2.bn3', 'layer2.3.bn3', 'layer3.5.bn3', 'layer4.2.bn3'],
}


@pytest.mark.parametrize('pair', NORMS)
def test_margins_are_those_of_the_last_norms_of_the_teacher(pair: str) -> None:
    cfg = recipes.compose(pair, ['ofd']).model
    teacher = randomised(MODELS.build(cfg.teacher))
    algorithm = MODELS.build({**cfg, 'teacher': teacher, 'teacher_ckpt': None, 'random_teacher': True})
    losses = algorithm.distiller.distill_losses
    names = NORMS[pair]
    assert len(losses) == len(names)
    for i, name in enumerate(names, start=1):
        loss = losses[f'loss_ofd{i}']
        assert torch.equal(loss.margin, margin_of(algorithm.teacher.backbone.get_submodule(name)))
        assert loss.loss_weight == 0.5 ** (len(names) - i)


def test_mmrazors_own_distiller_has_the_same_loss_for_wide_resnets() -> None:
    """Its config in the repository, with the weights of its connectors."""
    cfg = shipped('mixed/icd-ofd_wrn40-2_wrn16-2_cifar100.py').model
    cfg.distiller = cfg.distiller.distillers.ofd
    torch.manual_seed(0)
    teacher = randomised(MODELS.build(cfg.teacher))
    common = dict(teacher_ckpt=None, random_teacher=True)
    theirs = MODELS.build({**cfg, 'teacher': teacher, **common}).train()
    distiller = recipes.compose('wrn40-2_wrn16-2_cifar100', ['ofd']).model.distiller
    student = theirs.architecture
    ours = MODELS.build({**cfg, 'teacher': teacher, 'architecture': student, 'distiller': distiller, **common}).train()
    for i in (1, 2, 3):
        connector = theirs.distiller.connectors[f'student{i}'].conv_module
        layers = ours.distiller.connectors[f'ofd{i}_s_feature'].layers
        layers[0].load_state_dict(connector.conv.state_dict())
        layers[1].load_state_dict(connector.bn.state_dict())
    images = torch.randn(2, 3, 32, 32)
    losses = []
    for algorithm in (theirs, ours):
        distiller = algorithm.distiller
        with distiller.teacher_recorders, distiller.student_recorders:
            algorithm.run_teacher(images)
            student(images, mode='tensor')
        losses.append(list(distiller.compute_distill_losses().values()))
    torch.testing.assert_close(*losses)
    assert losses[0][0] > 0


def test_imagenet_has_another_divisor() -> None:
    divisors = [
        recipes.compose_distiller(['ofd'], pair=pair)['losses']['ofd']['loss'].get('divisor', 1000.0)
        for pair in ('res56_res20_cifar100', 'resnet34_resnet18_in1k')
    ]
    assert divisors == [1000.0, 10000.0]


def test_refuses_a_teacher_without_a_norm_before_the_activation() -> None:
    """A MobileNetV2 has no activation at the end of its stages."""
    cfg = recipes.compose('vgg13_mobilenetv2_cifar100', ['ofd']).model
    networks = dict(architecture=cfg.teacher, teacher=cfg.architecture)
    with pytest.raises(SettingError, match=r'OverhaulLoss: teacher_norm must be .*there is none\. Use a ResNet'):
        MODELS.build({**cfg, **networks, 'teacher_ckpt': None, 'random_teacher': True})


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(teacher_norm=None), 'teacher_norm must be .*there is none.*another method'),
        (dict(teacher_norm=nn.GroupNorm(1, 3)), 'teacher_norm must be .*found a GroupNorm'),
        (dict(divisor=0.0), 'divisor=0.0'),
        (dict(loss_weight=None), 'loss_weight=None'),
    ],
    ids=str,
)
def test_refuses_settings(settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=f'OverhaulLoss: {named}'):
        OverhaulLoss(**{'teacher_norm': nn.BatchNorm2d(3), **settings})


@pytest.mark.parametrize(
    ('s_shape', 't_shape', 'named'),
    [
        ((2, 3, 4, 4), (2, 4, 4, 4), 'widths differ.*PointwiseRegressor'),
        ((2, 3, 4, 4), (3, 3, 4, 4), 'batch sizes'),
        ((2, 3), (2, 3), 'takes two maps'),
        ((2, 4, 4, 4), (2, 4, 4, 4), 'teacher_norm has 3 channels, but the map has 4'),
    ],
    ids=str,
)
def test_refuses_features(s_shape: tuple, t_shape: tuple, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        OverhaulLoss(nn.BatchNorm2d(3))(torch.randn(s_shape), torch.randn(t_shape))
