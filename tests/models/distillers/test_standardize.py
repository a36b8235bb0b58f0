"""standardize=True of an entry: logits are standardised before they are compared (logit standardisation)."""

import copy
import math

import pytest
import torch
from helpers import shipped
from logit_cases import Case, cases, kl, on_pair, rows, softmax
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.functional import standardized

CASES = pytest.mark.parametrize('name', cases('lskd', 'KD'))


class Logits(nn.Module):
    """A network that hands on its inputs as logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(classes, classes, bias=False).double()
        nn.init.eye_(self.fc.weight)

    def forward(self, logits: Tensor, data_samples: list | None = None) -> Tensor:
        return self.fc(logits)


def through_distiller(losses: dict, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the losses that a distiller computes of what the two networks give."""
    distiller = MODELS.build(dict(_scope_='mmrazor', type='FeatureDistiller', losses=losses))
    networks = [Logits(student.shape[1]) for _ in range(2)]
    distiller.prepare_from_student(networks[0])
    distiller.prepare_from_teacher(networks[1])
    # without the warm-up
    distiller.set_progress(epoch=1000, iteration=0)
    samples = [DataSample().set_gt_label(label) for label in labels.tolist()]
    with distiller.student_recorders, distiller.teacher_recorders:
        networks[0](student, samples)
        networks[1](teacher, samples)
    return distiller.compute_distill_losses()


def entry(method: str, **loss: float) -> dict:
    """Return the losses of a method's config with other settings."""
    losses = copy.deepcopy(shipped(f'_base_/methods/{method}.py')[method].losses.to_dict())
    losses[method]['loss'] |= loss
    return losses


def test_there_are_golden_cases() -> None:
    assert len(cases('lskd', 'KD')) == len(cases('lskd', 'DKD')) == 6


@CASES
def test_golden_numbers_of_kd(name: str) -> None:
    case = Case('lskd', name, 'KD')
    inputs = case.student, case.teacher, case.labels
    losses = entry('kd_ls', tau=case['tau'], loss_weight=1.0)
    case.check(through_distiller(losses, *inputs)['loss_kd_ls'])
    losses = entry('kd_ls', tau=case['tau'], loss_weight=case['loss_weight'])
    case.check_total(through_distiller(losses, *inputs)['loss_kd_ls'])


@CASES
def test_golden_numbers_of_dkd(name: str) -> None:
    case = Case('lskd', name, 'DKD')
    losses = entry('dkd_ls', tau=case['tau'], alpha=case['alpha'], beta=case['beta'])
    value = through_distiller(losses, case.student, case.teacher, case.labels)['loss_dkd_ls']
    case.check(value)
    case.check_total(value)


def test_golden_numbers_of_rld() -> None:
    case = Case('rld', 'standardised', 'RLD')
    settings = dict(tau=case['tau'], confidence_tau=case['alpha_tau'], alpha=case['alpha'], beta=case['beta'])
    losses = entry('rld', **settings)
    losses['rld']['standardize'] = True
    value = through_distiller(losses, case.student, case.teacher, case.labels)['loss_rld']
    case.check(value)
    case.check_total(value)


@CASES
def test_golden_numbers_of_the_standardised_logits(name: str) -> None:
    case = Case('lskd', name, 'KD')
    want = torch.from_numpy(case.numbers[f'{name}/standardised_student'])
    torch.testing.assert_close(standardized(case.student).detach(), want, rtol=1e-12, atol=1e-12)


def slow_standardized(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / (len(row) - 1))
    return [(x - mean) / (1e-7 + deviation) for x in row]


@pytest.mark.parametrize('method', ['kd_ls', 'dist'])
def test_equals_a_slow_rewrite(method: str) -> None:
    """Any loss between logits can be standardised; it then ignores their scale and offset, up to the 1e-7."""
    student, teacher = 3 * torch.randn(2, 5, 7).double()
    labels, losses = torch.zeros(5, dtype=torch.int64), entry(method)
    losses[method]['standardize'] = True
    got = through_distiller(losses, student, teacher, labels)[f'loss_{method}'].item()
    slow = [[slow_standardized(row) for row in logits] for logits in rows(student, teacher)]
    if method == 'kd_ls':
        values = [kl(softmax(t, 2.0), softmax(s, 2.0)) for s, t in zip(*slow, strict=True)]
        assert got == pytest.approx(9 * 4 * sum(values) / 5, rel=1e-12)
    losses[method]['standardize'] = False
    s, t = (torch.tensor(logits, dtype=torch.float64) for logits in slow)
    assert through_distiller(losses, s, t, labels)[f'loss_{method}'].item() == pytest.approx(got, rel=1e-9)
    losses[method]['standardize'] = True
    moved = through_distiller(losses, 5 * student - 40, teacher, labels)[f'loss_{method}'].item()
    assert moved == pytest.approx(got, rel=1e-6)


@pytest.mark.parametrize('constant', [0.0, 0.1, 1e4, 1e-20])
def test_equal_logits_become_0_and_get_no_gradient(constant: float) -> None:
    """Not the rounding errors of their mean, enlarged by 1e7."""
    logits = torch.randn(3, 11)
    logits[1] = constant
    logits.requires_grad_()
    found = standardized(logits)
    (gradient,) = torch.autograd.grad((found * torch.randn(3, 11)).sum(), logits)
    assert found[1].abs().max() == 0
    assert gradient[1].abs().max() == 0
    assert found[0].std().item() == pytest.approx(1.0, abs=1e-5)
    assert gradient[[0, 2]].abs().min(1).values.max() > 0


def test_small_differences_are_not_taken_for_rounding_errors() -> None:
    values = torch.tensor([[1.0, 1.0 + 1e-5, 1.0 - 1e-5], [1e-30, 2e-30, 3e-30]])
    # below the shortest length that has a direction
    assert (standardized(values).abs().amax(1) > 0).tolist() == [True, False]


@pytest.mark.parametrize('number', [math.nan, math.inf])
def test_non_finite_logits_are_not_hidden(number: float) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = number
    assert standardized(logits)[1].isnan().any()


def features(name: str) -> dict:
    return dict(features=name)


INPUTS = {
    'preds_S': dict(network='student', feature='logits'),
    'preds_T': dict(network='teacher', feature='pooled'),
}


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (features('pooled'), 'pooled'),
        (features('last_map'), 'last_map'),
        (features('maps'), 'maps'),
        (dict(inputs=INPUTS), 'logits, pooled'),
    ],
    ids=str,
)
def test_other_features_are_refused(settings: dict, named: str) -> None:
    losses = dict(it=dict(loss=dict(type='KLDivergence'), standardize=True, **settings))
    with pytest.raises(SettingError, match=f'it in losses: standardize=True .*compares {named}'):
        MODELS.build(dict(_scope_='mmrazor', type='FeatureDistiller', losses=losses))


@pytest.mark.parametrize('wrong', ['yes', 1, None])
def test_it_is_true_or_false(wrong: object) -> None:
    losses = dict(it=dict(loss=dict(type='KLDivergence'), features='logits', standardize=wrong))
    with pytest.raises(SettingError, match=f'it in losses: standardize={wrong!r}'):
        MODELS.build(dict(_scope_='mmrazor', type='FeatureDistiller', losses=losses))


@pytest.mark.parametrize(
    ('pair', 'settings'),
    [
        ('res32x4_res8x4_cifar100', (0.1, 2.0, 9.0)),
        ('res56_res20_cifar10', (0.1, 2.0, 9.0)),
        ('vgg13_vgg8_cifar100', (0.1, 3.0, 9.0)),
        ('res110_res20_cifar100', (0.1, 4.0, 12.0)),
        ('res50_mobilenetv2_cifar100', (0.1, 3.0, 1.0)),
        ('resnet34_resnet18_in1k', (1.0, 2.0, 9.0)),
    ],
)
def test_the_settings_of_the_authors_on_kd(pair: str, settings: tuple) -> None:
    distiller = on_pair('kd_ls', pair)
    loss = distiller.losses.kd_ls.loss
    assert (distiller.student_loss_weight, loss.tau, loss.loss_weight) == settings
    assert recipes.needs_of('kd_ls') == {'logits'}


@pytest.mark.parametrize(
    ('pair', 'settings', 'warms_up'),
    [
        ('res32x4_res8x4_cifar100', (2.0, 9.0, 72.0), True),
        ('wrn40-2_wrn16-2_cifar100', (2.0, 12.0, 24.0), True),
        ('res110_res32_cifar100', (2.0, 15.0, 30.0), True),
        ('res56_res20_cifar10', (3.0, 18.0, 36.0), True),
        ('vgg13_mobilenetv2_cifar100', (3.0, 9.0, 18.0), True),
        ('resnet34_resnet18_in1k', (2.0, 9.0, 4.5), False),
    ],
)
def test_the_settings_of_the_authors_on_dkd(pair: str, settings: tuple, warms_up: bool) -> None:
    entry = on_pair('dkd_ls', pair).losses.dkd_ls
    assert (entry.loss.tau, entry.loss.alpha, entry.loss.beta) == settings
    assert entry.standardize
    assert bool(entry.weight_schedule) == warms_up
    assert recipes.needs_of('dkd_ls') == {'logits', 'labels'}
