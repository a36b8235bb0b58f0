"""SRRL against golden numbers of both published forms, a slow rewrite, and what it needs of a teacher."""

import copy

import numpy as np
import pytest
import torch
from helpers import DATA
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import PointwiseRegressor
from icd_mmrazor.models.losses.srrl_loss import SRRLLoss


def golden_of(case: str) -> dict[str, Tensor]:
    arrays = np.load(DATA / 'srrl.npz')
    return {name.removeprefix(f'{case}/'): torch.from_numpy(arrays[name]) for name in arrays.files if case in name}


def classifier_of(golden: dict[str, Tensor]) -> nn.Linear:
    classes, width = golden['teacher_fc.weight'].shape
    classifier = nn.Linear(width, classes).double()
    classifier.weight.data.copy_(golden['teacher_fc.weight'])
    classifier.bias.data.copy_(golden['teacher_fc.bias'])
    return classifier


# the connector's name in the state dict, and its name for the first term
FORMS = {'srrl': ('Connectors', 'statistics'), 'srrl_simkd': ('transfer', 'features')}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', ['default', 'hetero'])
def test_golden_numbers(case: str, form: str) -> None:
    g, (prefix, first) = golden_of(case), FORMS[form]
    g |= {name.removeprefix(f'{form}/'): value for name, value in g.items()}
    student, teacher = g['student'].requires_grad_(), g['teacher']
    # SimKD's form gets pooled features
    taken = student if form == 'srrl' else student.mean((2, 3))
    connector = PointwiseRegressor(taken.shape[1:], teacher.shape[1:], relu=True).double()
    state = {f'layers.{name}': g[f'param/{prefix}.{name}'] for name in ('0.weight', '1.weight', '1.bias')}
    state |= {f'layers.1.{name}': g[f'buffer_before/{prefix}.1.{name}'] for name in ('running_mean', 'running_var')}
    connector.load_state_dict(state, strict=False)
    weight = g['setting/weight'].item() if form == 'srrl' else 1.0
    embedded = connector(taken)
    loss = SRRLLoss(classifier_of(g), weight)(embedded, teacher)
    loss.backward()
    statistics = SRRLLoss(classifier_of(g), logit_weight=0.0)(embedded, teacher)
    norm = connector.layers[1]
    got = {
        'loss': loss,
        f'part/{first}': statistics,
        'part/logits': (loss - statistics) / weight,
        'grad/student': student.grad,
        **{f'grad/{prefix}.{name}': p.grad for name, p in connector.layers.named_parameters()},
        f'buffer_after/{prefix}.1.running_mean': norm.running_mean,
        f'buffer_after/{prefix}.1.running_var': norm.running_var,
    }
    of_results = ('loss', 'part/', 'grad/', 'buffer_after/')
    assert {*got} == {name for name in g if name.startswith(of_results)}
    for name, value in got.items():
        torch.testing.assert_close(
            value.detach(), g[name].detach(), rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f'{name}: {text}'
        )


def test_a_single_vector_is_normalised_by_the_running_statistics() -> None:
    """The last batch of an epoch may be one image."""
    connector, feature = PointwiseRegressor((6,), (4,), relu=True), torch.randn(1, 6)
    connector(torch.randn(8, 6))
    before, got = connector.layers[1].running_mean.clone(), connector(feature)
    got.sum().backward()
    assert connector.layers[0].weight.grad.isfinite().all()
    assert torch.equal(connector.layers[1].running_mean, before)
    torch.testing.assert_close(got, connector.eval()(feature))
    assert got.any()


def slow_srrl(student: list, teacher: list, weight: list, bias: list, logit_weight: float) -> float:
    def logits(feature: list) -> list:
        return [sum(w * x for w, x in zip(row, feature, strict=True)) + b for row, b in zip(weight, bias, strict=True)]

    features, outputs = [], []
    for s, t in zip(student, teacher, strict=True):
        features += [(x - y) ** 2 for x, y in zip(s, t, strict=True)]
        outputs += [(x - y) ** 2 for x, y in zip(logits(s), logits(t), strict=True)]
    return sum(features) / len(features) + logit_weight * sum(outputs) / len(outputs)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize(('size', 'images', 'logit_weight'), [(1, 1, 1.0), (3, 4, 0.5), (None, 5, 0.0)])
def test_equals_a_slow_rewrite(size: int | None, images: int, logit_weight: float, bias: bool, dtype: type) -> None:
    """Of maps of two sizes, or of vectors."""
    sizes = () if size is None else (size, size), () if size is None else (2 * size, 1)
    student, teacher = (torch.randn(images, 6, *each).to(dtype) for each in sizes)
    classifier = nn.Linear(6, 4, bias=bias).to(torch.promote_types(dtype, torch.float32))
    s, t = (f.double().flatten(2).mean(2) if size else f.double() for f in (student, teacher))
    b = classifier.bias.tolist() if bias else [0.0] * 4
    want = 3 * slow_srrl(s.tolist(), t.tolist(), classifier.weight.tolist(), b, logit_weight)
    got = SRRLLoss(classifier, logit_weight, loss_weight=3.0)(student, teacher)
    assert got.item() == pytest.approx(want, rel=1e-12 if dtype == torch.float64 else 1e-5)


def test_the_classifier_is_a_copy_that_no_checkpoint_has() -> None:
    classifier = nn.Linear(6, 4)
    loss = SRRLLoss(classifier)
    assert not [*loss.parameters(), *loss.state_dict()]
    features = torch.randn(2, 3, 6)
    before = loss(*features)
    nn.init.zeros_(classifier.weight)
    assert torch.equal(loss(*features), before)
    # it moves with the loss
    assert loss.double().weight.dtype == torch.float64


def test_only_the_student_learns() -> None:
    s, t = (torch.randn(4, 6, requires_grad=True) for _ in range(2))
    SRRLLoss(nn.Linear(6, 3))(s, t).backward()
    assert s.grad.abs().sum() > 0
    assert t.grad is None


def test_both_forms_are_used_where_they_were_published() -> None:
    pooled, of_maps = (
        recipes.compose_distiller(['srrl'], pair=pair)['losses']['srrl']['inputs']['s_feature']
        for pair in ('res32x4_res8x4_cifar100', 'resnet34_resnet18_in1k')
    )
    assert (pooled['feature'], of_maps['feature']) == ('pooled', 'classified_map')
    assert pooled['connector'] == dict(type='PointwiseRegressor', relu=True)
    assert of_maps['connector'] == dict(type='PointwiseRegressor', relu=True, initialization='fan_out')


@pytest.mark.parametrize('feature', ['pooled', 'last_map'])
def test_the_distiller_gives_it_the_teachers_classifier(feature: str) -> None:
    cfg = recipes.compose('res56_res20_cifar100', ['srrl']).model
    cfg.distiller.losses.srrl.inputs.s_feature.feature = feature
    algorithm = MODELS.build({**cfg, 'teacher_ckpt': None, 'random_teacher': True}).train()
    loss = algorithm.distiller.distill_losses['loss_srrl']
    assert torch.equal(loss.weight, algorithm.teacher.head.fc.weight)
    assert torch.equal(loss.bias, algorithm.teacher.head.fc.bias)
    assert not any('teacher' in name or 'loss_srrl' in name for name in algorithm.state_dict())


class Stored(nn.Module):
    """A teacher of which only the outputs are stored."""

    is_stored = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = network.backbone, network.neck, network.head


def test_refuses_a_teacher_that_is_not_in_memory() -> None:
    cfg = recipes.compose('res20_res8_digits', ['srrl']).model
    student, teacher = (MODELS.build(copy.deepcopy(cfg[name])) for name in ('architecture', 'teacher'))
    distiller = MODELS.build(cfg.distiller)
    distiller.prepare_from_student(student)
    with pytest.raises(SettingError, match=r'SRRLLoss: teacher_classifier=None.*teacher_ckpt'):
        distiller.prepare_from_teacher(Stored(teacher))


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(teacher_classifier=None), r'teacher_classifier=None.*model\.teacher_ckpt'),
        (dict(teacher_classifier=nn.Conv2d(6, 4, 1)), 'teacher_classifier is a Conv2d.*distiller.teacher_source'),
        (dict(logit_weight=-1.0), 'logit_weight=-1.0'),
        (dict(loss_weight='1'), "loss_weight='1'"),
    ],
    ids=str,
)
def test_refuses_settings(settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=f'SRRLLoss: {named}'):
        SRRLLoss(**{'teacher_classifier': nn.Linear(6, 4), **settings})


@pytest.mark.parametrize(
    ('s_shape', 't_shape', 'named'),
    [
        ((4, 6), (5, 6), 'batch sizes'),
        ((4, 5), (4, 6), 'widths differ.*PointwiseRegressor'),
        ((4, 6), (4, 5), r'teacher_classifier takes 6 features, but t_feature is \(4, 5\).*pooled'),
        ((4, 6, 3), (4, 6), 'SRRLLoss takes two matrices'),
    ],
    ids=str,
)
def test_refuses_features(s_shape: tuple, t_shape: tuple, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        SRRLLoss(nn.Linear(6, 4))(torch.randn(s_shape), torch.randn(t_shape))
