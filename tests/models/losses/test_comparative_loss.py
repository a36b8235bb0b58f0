"""CKD against golden numbers of its two releases, slow rewrites, and the identities behind its closed form."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers import DATA, ROOT
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.datasets.samples import merge_samples
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses import ComparativeLoss
from icd_mmrazor.models.losses.comparative_loss import (
    comparative_kl,
    comparative_mse,
    group_differences,
    pair_differences,
)

CASES = ('pairs', 'triples', 'other', 'neither', 'equal', 'peaked')
GOLDEN = dict(np.load(DATA / 'ckd_loss_vectors.npz'))
# in float32, the loss to rtol 5e-5, gradients to 5e-6 of the largest entry
TOLERANCES = {torch.float64: (1e-9, 1e-11, 0.0), torch.float32: (5e-5, 1e-6, 5e-6)}


class Case:
    """A golden case: its inputs in a type, and its numbers."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.name, self.tolerances = name, TOLERANCES[dtype]
        self.student = torch.from_numpy(GOLDEN[f'{name}/student']).to(dtype).requires_grad_()
        self.teacher = torch.from_numpy(GOLDEN[f'{name}/teacher']).to(dtype)
        self.labels = GOLDEN[f'{name}/target'].tolist()
        self.one_hot = torch.nn.functional.one_hot(torch.tensor(self.labels), self.student.shape[1]).to(dtype)
        self.positive, self.negative = (torch.from_numpy(GOLDEN[f'{name}/group_{sign}']) for sign in ('pos', 'neg'))
        self.groups = self.positive.shape[1], self.negative.shape[1]
        self.tau = float(GOLDEN[f'{name}/CKD_KL/tau'])

    def differences(self, values: Tensor) -> Tensor:
        return values[self.positive].mean(1) - values[self.negative].mean(1)

    def check(self, method: str, part: str, value: Tensor) -> None:
        rtol, atol, of_largest = self.tolerances
        prefix = '' if part == 'loss' else f'{part}_'
        want = torch.from_numpy(GOLDEN[f'{self.name}/{method}/{prefix}grad_student'])
        (got,) = torch.autograd.grad(value, self.student, retain_graph=True)
        assert value.item() == pytest.approx(float(GOLDEN[f'{self.name}/{method}/{part}']), rel=rtol, abs=atol)
        atol += of_largest * want.abs().max().item()
        torch.testing.assert_close(got.double(), want, rtol=rtol if not of_largest else 0.0, atol=atol)


def samples(labels: list[int]) -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in labels]


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('name', CASES)
def test_golden_numbers_of_2025(name: str, dtype: torch.dtype) -> None:
    case = Case(name, dtype)
    loss = ComparativeLoss(groups=case.groups)
    case.check('CKD_MSE', 'loss', loss(case.student, case.teacher, samples(case.labels)))
    case.check('CKD_MSE', 'relation', ComparativeLoss(groups=case.groups, label_weight=0)(case.student, case.teacher))
    case.check('CKD_MSE', 'label', comparative_mse(case.student, case.one_hot, case.groups))


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('name', CASES)
def test_golden_numbers_of_2023(name: str, dtype: torch.dtype) -> None:
    case = Case(name, dtype)
    student, teacher, labels = map(case.differences, (case.student, case.teacher, case.one_hot))
    parts = [comparative_kl(student, target, case.tau) for target in (teacher, labels)]
    case.check('CKD_KL', 'relation', parts[0])
    case.check('CKD_KL', 'label', parts[1])
    case.check('CKD_KL', 'loss', sum(parts))
    if case.groups == (1, 1):
        loss = ComparativeLoss('kl', case.tau)
        case.check('CKD_KL', 'loss', loss(case.student, case.teacher, samples(case.labels)))


def all_groups(images: int, a: int, b: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield all pairs of disjoint groups."""
    for first in itertools.combinations(range(images), a):
        yield from ((first, second) for second in itertools.combinations({*range(images)} - {*first}, b))


def slow_differences(rows: list[list[float]], groups: list[tuple]) -> list[list[float]]:
    def centre(group: tuple[int, ...]) -> list[float]:
        return [sum(column) / len(group) for column in zip(*(rows[i] for i in group), strict=True)]

    return [[x - y for x, y in zip(centre(a), centre(b), strict=True)] for a, b in groups]


def slow_mse(student: list[float], target: list[float], _: float) -> float:
    return sum((s - t) ** 2 for s, t in zip(student, target, strict=True)) / len(student)


def slow_kl(student: list[float], target: list[float], tau: float) -> float:
    def softmax(row: list[float]) -> list[float]:
        exponentials = [math.exp(x / tau) for x in row]
        return [x / sum(exponentials) for x in exponentials]

    return tau**2 * sum(p * math.log(p / q) for p, q in zip(softmax(target), softmax(student), strict=True))


def slow(distance: str, student: Tensor, target: Tensor, groups: list[tuple], tau: float = 4.0) -> float:
    rows = [slow_differences(values.tolist(), groups) for values in (student, target)]
    of_one = dict(mse=slow_mse, kl=slow_kl)[distance]
    return sum(of_one(s, t, tau) for s, t in zip(*rows, strict=True)) / len(groups)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('images', [2, 5])
@pytest.mark.parametrize('distance', ['mse', 'kl'])
def test_pairs_equal_a_slow_rewrite(distance: str, images: int, dtype: torch.dtype) -> None:
    student, teacher = (3 * torch.randn(images, 4).to(dtype) for _ in range(2))
    labels, groups = [i % 4 for i in range(images)], [*all_groups(images, 1, 1)]
    one_hot = torch.eye(4)[labels]
    want = slow(distance, student, teacher, groups, 2.0) + 0.5 * slow(distance, student, one_hot, groups, 2.0)
    loss = ComparativeLoss(distance, tau=2.0, label_weight=0.5, loss_weight=3.0)
    bar = 1e-9 if dtype == torch.float64 else 1e-4
    assert loss(student, teacher, samples(labels)).item() == pytest.approx(3 * want, rel=bar)


@pytest.mark.parametrize('sizes', [(1, 1), (2, 1), (1, 3), (2, 2)], ids=str)
def test_all_disjoint_groups_of_a_batch_give_the_closed_form(sizes: tuple[int, int]) -> None:
    student, teacher = torch.randn(2, 6, 5).double()
    want = slow('mse', student, teacher, [*all_groups(6, *sizes)])
    got = ComparativeLoss(groups=sizes, label_weight=0)(student, teacher).item()
    assert got == pytest.approx(want, rel=1e-12)
    # the sizes are only a factor
    factor = (1 / sizes[0] + 1 / sizes[1]) / 2
    assert got == pytest.approx(factor * ComparativeLoss(label_weight=0)(student, teacher).item(), rel=1e-12)


def test_pairs_are_all_ordered_pairs() -> None:
    rows = {tuple(row) for row in pair_differences(torch.eye(4)).tolist()}
    assert len(rows) == len(pair_differences(torch.eye(4))) == 12
    assert all(sorted(row) == [-1, 0, 0, 1] for row in rows)


@pytest.mark.parametrize('sizes', [(1, 2), (2, 1), (3, 2), (3, 4)], ids=str)
def test_groups_are_disjoint_and_use_each_image_equally(sizes: tuple[int, int]) -> None:
    # the weight of each image in each comparison
    rows = group_differences(torch.eye(7).double(), sizes)
    assert len(rows) == 7
    for sign, size in zip((1, -1), sizes, strict=True):
        members = (sign * rows > 0).double()
        assert members.sum(1).tolist() == members.sum(0).tolist() == [size] * 7
        torch.testing.assert_close(rows * members, sign / size * members)


def test_random_groups_approach_the_mean_over_all_groups() -> None:
    student, teacher = 3 * torch.randn(2, 5, 4).double()
    loss = ComparativeLoss('kl', label_weight=0, groups=(2, 1))
    drawn = torch.stack([loss(student, teacher) for _ in range(1500)])
    want, error = slow('kl', student, teacher, [*all_groups(5, 2, 1)]), drawn.std() / math.sqrt(len(drawn))
    assert drawn.unique().numel() > 10
    assert error < 0.02 * want
    assert drawn.mean().item() == pytest.approx(want, abs=4 * error.item())


def test_random_groups_follow_torchs_seed_and_are_those_of_the_labels_too() -> None:
    student, teacher = torch.randn(2, 6, 4)
    loss, data_samples = ComparativeLoss('kl', groups=(2, 1)), samples([0, 1, 2, 3, 0, 1])
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(loss(student, teacher, data_samples).item())
    assert values[0] == values[1] != values[2]
    torch.manual_seed(1)
    order = torch.randperm(6)
    rows = [group_differences(values[order], (2, 1)) for values in (student, teacher, torch.eye(4)[[0, 1, 2, 3, 0, 1]])]
    want = comparative_kl(rows[0], rows[1]) + comparative_kl(rows[0], rows[2])
    assert values[0] == pytest.approx(want.item(), rel=1e-6)


FORMS = [dict(), dict(distance='kl'), dict(distance='kl', groups=(2, 1)), dict(groups=(2, 1), label_weight=0.3)]


@pytest.mark.parametrize('settings', FORMS, ids=str)
def test_the_bias_of_the_classifier_learns_nothing(settings: dict) -> None:
    classifier, features = torch.nn.Linear(6, 4).double(), torch.randn(5, 6).double()
    teacher, loss, data_samples = torch.randn(5, 4).double(), ComparativeLoss(**settings), samples([0, 1, 2, 3, 0])
    values = []
    for offset in (torch.zeros(4), 100 * torch.randn(4)):
        torch.manual_seed(0)
        values.append(loss(classifier(features) + offset.double(), teacher, data_samples))
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-9)
    values[0].backward()
    assert classifier.bias.grad.abs().max() < 1e-12
    assert classifier.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize('settings', FORMS, ids=str)
def test_a_constant_difference_from_the_teacher_costs_nothing(settings: dict) -> None:
    teacher = torch.randn(6, 4).double()
    student = (teacher + torch.randn(4).double()).requires_grad_()
    value = ComparativeLoss(**{**settings, 'label_weight': 0})(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize('settings', FORMS, ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_float32(dtype: torch.dtype, settings: dict) -> None:
    student, teacher = (100 * torch.randn(2, 6, 4)).to(dtype)
    loss, values = ComparativeLoss(**settings), []
    for enabled in (True, False):
        torch.manual_seed(0)
        with torch.autocast('cpu', dtype, enabled=enabled):
            values.append(loss(*(x if enabled else x.float() for x in (student, teacher)), samples([0, 1, 2, 3, 0, 1])))
    assert values[0].dtype == torch.float32
    assert values[0].item() == values[1].item()


@pytest.mark.parametrize(
    ('settings', 'images'),
    [(dict(), 1), (dict(distance='kl'), 1), (dict(distance='kl', groups=(2, 1)), 2), (dict(groups=(2, 1)), 1)],
    ids=str,
)
def test_a_batch_without_a_comparison_gives_0(settings: dict, images: int) -> None:
    student = torch.randn(images, 4, requires_grad=True)
    value = ComparativeLoss(**settings)(student, torch.randn(images, 4), samples([0, 1][:images]))
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize('settings', FORMS[:3], ids=str)
def test_nan_is_not_hidden(settings: dict) -> None:
    for spoilt in range(2):
        features = list(torch.randn(2, 5, 4))
        features[spoilt][3, 2] = math.nan
        assert ComparativeLoss(**settings)(*features, samples([0, 1, 2, 3, 0])).isnan()


def test_labels_of_one_data_sample_for_all() -> None:
    student, teacher = torch.randn(2, 5, 4)
    each = samples([0, 1, 2, 3, 0])
    (merged,) = merge_samples(each)
    loss = ComparativeLoss()
    assert loss(student, teacher, [merged]).item() == loss(student, teacher, each).item()


def test_scores_of_mixed_images_are_their_labels() -> None:
    student, teacher = torch.randn(2, 5, 4).double()
    scores = torch.rand(5, 4).softmax(1).double()
    # the class of a mixed image is that of one of the two
    mixed = [DataSample().set_gt_label(0).set_gt_score(score) for score in scores]
    groups = [*all_groups(5, 1, 1)]
    want = slow('mse', student, teacher, groups) + slow('mse', student, scores, groups)
    assert ComparativeLoss()(student, teacher, mixed).item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ('data_samples', 'found'),
    [
        (None, 'no labels'),
        ([], 'no labels'),
        ([DataSample() for _ in range(3)], 'no labels'),
        (samples([0, 1]), '2 labels'),
        ([DataSample().set_gt_label([0, 1]) for _ in range(3)], '6 labels'),
        ([DataSample().set_gt_score(torch.rand(5)) for _ in range(3)], r'scores of shape \(3, 5\)'),
    ],
    ids=['none', 'empty', 'unlabelled', 'partly labelled', 'several labels', 'other classes'],
)
def test_missing_labels_are_refused_unless_they_are_not_read(data_samples: list | None, found: str) -> None:
    student, teacher = torch.randn(2, 3, 4)
    with pytest.raises(SettingError, match=f'label_weight=1.0 .*{found}.*label_weight=0'):
        ComparativeLoss()(student, teacher, data_samples)
    assert ComparativeLoss(label_weight=0)(student, teacher, data_samples).item() > 0


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(distance='mae'), "distance='mae' .*'mse', 'kl'"),
        (dict(tau=0), 'tau=0'),
        (dict(label_weight=-1), 'label_weight=-1'),
        (dict(label_weight=None), 'label_weight=None'),
        (dict(groups=(1, 0)), r'groups=\(1, 0\)'),
        (dict(groups=3), 'groups=3'),
        (dict(groups=(1, 1, 1)), r'groups=\(1, 1, 1\)'),
        (dict(groups=(1, True)), r'groups=\(1, True\)'),
        (dict(groups='12'), "groups='12'"),
        (dict(loss_weight='1'), 'loss_weight'),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'ComparativeLoss: {message}'):
        ComparativeLoss(**settings)


@pytest.mark.parametrize('shapes', [((3, 4), (3, 5)), ((3, 4), (2, 4)), ((3, 4, 2, 2), (3, 4, 2, 2)), ((0, 4), (0, 4))])
def test_logits_that_cannot_be_compared_are_refused(shapes: tuple) -> None:
    with pytest.raises(SettingError, match='ComparativeLoss'):
        ComparativeLoss(label_weight=0)(*(torch.randn(shape) for shape in shapes))


def test_labels_are_read_as_the_settings_say() -> None:
    assert ComparativeLoss().reads_labels
    assert not ComparativeLoss(label_weight=0).reads_labels
    assert recipes.needs_of('ckd') == {'logits', 'labels', 'scores'}
    # beside another method, the cross-entropy has the labels
    assert recipes.needs_of('ckd', alone=False) == {'logits'}


def test_the_method_has_no_cross_entropy_alone() -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'ckd' / 'ckd_res32x4_res8x4_cifar100.py')
    assert cfg.model.distiller.student_loss_weight == 0
    assert 'student_loss_weight' not in recipes.compose_distiller(['ckd', 'icd'])['distillers']['ckd']
