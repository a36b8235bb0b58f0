"""MLKD against golden numbers of the released code and a slow rewrite; batches of another form."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DATA, two_views
from mmpretrain.structures import DataSample
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.datasets.samples import merge_samples
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.multi_level_logit_loss import (
    MultiLevelLogitLoss,
    between_classes,
    between_images,
    share_up_to_median,
)

GOLDEN = np.load(DATA / 'mlkd_loss_vectors.npz')
CASES = ['cifar100', 'imagenet', 'other', 'neither', 'equal', 'peaked']
FORMS = {'MLKD': False, 'MLKD_standardised': True}
# what the authors call the parts
PARTS = {'kd': 'kd', 'classes': 'cc', 'images': 'bc'}


def samples_of(images: int) -> list[DataSample]:
    return two_views([DataSample().set_gt_label(i % 3) for i in range(images)])


def close(got: Tensor, want: Tensor | np.ndarray) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', CASES)
def test_golden_numbers(case: str, form: str) -> None:
    """Of the loss with cross-entropy as a distillation adds it, of each part, and of the gradients of both views."""

    def golden(name: str) -> Tensor:
        return torch.from_numpy(GOLDEN[f'{case}/{name}'])

    def result(name: str) -> Tensor:
        return golden(f'{form}/{name}')

    student = torch.cat([golden('student'), golden('student_strong')]).requires_grad_()
    teacher = torch.cat([golden('teacher'), golden('teacher_strong')])
    images = len(student) // 2
    weight = result('kd_weight').item()
    loss = MultiLevelLogitLoss(tau=result('tau').item(), standardize=FORMS[form], loss_weight=weight)

    for ours, theirs in PARTS.items():
        part = weight * loss.parts(student, teacher)[ours]
        (gradient,) = torch.autograd.grad(part, student)
        close(part, result(theirs))
        close(gradient[:images], result(f'{theirs}_grad_student'))
        of_strong = result('kd_grad_student_strong') if ours == 'kd' else torch.zeros_like(gradient[images:])
        close(gradient[images:], of_strong)

    # the student's own loss is a mean over both views
    own = F.cross_entropy(student, golden('target').repeat(2))
    total = loss(student, teacher, samples_of(images)) + 2 * result('ce_weight').item() * own
    (gradient,) = torch.autograd.grad(total, student)
    close(total, result('loss'))
    close(gradient[:images], result('grad_student'))
    close(gradient[images:], result('grad_student_strong'))


SIMILARITIES = {'MLKD_class_gram': between_classes, 'MLKD_batch_gram': between_images}
SINGLE = sorted({name.rpartition('/')[0] for name in GOLDEN.files if 'gram' in name})


@pytest.mark.parametrize('term', SINGLE)
def test_golden_similarities_at_one_temperature(term: str) -> None:
    case, name = term.split('/')
    student, teacher = (torch.from_numpy(GOLDEN[f'{case}/{network}']) for network in ('student', 'teacher'))
    student.requires_grad_()
    value = SIMILARITIES[name.rpartition('_')[0]](student, teacher, GOLDEN[f'{term}/tau'].item())
    (gradient,) = torch.autograd.grad(value, student)
    close(value, GOLDEN[f'{term}/loss'])
    close(gradient, GOLDEN[f'{term}/grad_student'])


def test_every_case_of_the_file_is_tested() -> None:
    assert {name.split('/')[0] for name in GOLDEN.files} == {*CASES}
    assert len(SINGLE) == 22


@pytest.mark.parametrize('case', CASES)
def test_the_masks_select_nothing(case: str) -> None:
    """What they would select has another loss, which the file has for comparison."""
    selected = GOLDEN[f'{case}/MLKD_masked_kd_weak/loss'].item()
    logits = [torch.from_numpy(GOLDEN[f'{case}/{name}']) for name in ('student', 'teacher')]
    weight, tau = (GOLDEN[f'{case}/MLKD/{name}'].item() for name in ('kd_weight', 'tau'))
    share = share_up_to_median(logits[1].softmax(1).amax(1))
    scaled = weight * share.item() * sum(divergence(*logits, each) for each in (tau, 3, 5, 2, 6))
    assert (abs(scaled - selected) > 1e-3) == (case != 'equal')


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """KD, an image at a time."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = ((z / temperature).double().softmax(0) for z in (t, s))
        total += sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True) if a > 0).item()
    return temperature**2 * total / len(student)


def slow(student: Tensor, teacher: Tensor, tau: float, standardize: bool) -> float:
    """Compute the loss with loops and numpy."""
    images, classes = len(student) // 2, student.shape[1]

    def row(z: Tensor) -> Tensor:
        return (z - z.mean()) / (z.std() + 1e-7) if standardize else z

    (ws, ss), (wt, st) = student.split(images), teacher.split(images)

    def kd(s: Tensor, t: Tensor, temperature: float) -> float:
        return divergence(torch.stack([*map(row, s)]), torch.stack([*map(row, t)]), temperature)

    p = wt.softmax(1).numpy()
    unsure = np.mean(p.max(1) <= np.percentile(p.max(1), 50))
    rare = np.mean(p.sum(0) <= np.percentile(p.sum(0), 50))
    total = 0.0
    for temperature in (tau, 3, 5, 2, 6):
        total += unsure * kd(ws, wt, temperature)
        of_s, of_t = ((z / temperature).softmax(1) for z in (ws, wt))
        for i in range(images):
            for j in range(images):
                total += unsure * ((of_t[i] @ of_t[j] - of_s[i] @ of_s[j]) ** 2).item() / images
        for i in range(classes):
            for j in range(classes):
                total += rare * ((of_t[:, i] @ of_t[:, j] - of_s[:, i] @ of_s[:, j]) ** 2).item() / classes
    for temperature in (tau, 3, 5):
        total += kd(ss, st, temperature)
    return total + kd(ws, wt, 2) + kd(ws, wt, 6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize(('images', 'classes'), [(1, 2), (2, 5), (5, 4), (6, 3)])
def test_a_slow_rewrite(images: int, classes: int, standardize: bool, dtype: torch.dtype) -> None:
    """For even and odd numbers of images and classes."""
    generator = torch.Generator().manual_seed(images)
    student, teacher = (3 * torch.randn(2 * images, classes, generator=generator).to(dtype) for _ in range(2))
    loss = MultiLevelLogitLoss(tau=1.5, standardize=standardize, loss_weight=2.0)
    got = loss(student, teacher, samples_of(images))
    assert got.dtype == dtype
    want = 2 * slow(student, teacher, 1.5, standardize)
    assert got.item() == pytest.approx(want, rel=1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize('values', [[1.0], [1.0, 2.0], [1.0, 1.0, 1.0], [3.0, 1.0, 1.0, 2.0], [0.1, 0.1 + 2**-56, 0.2]])
def test_shares_are_those_of_numpys_percentile(values: list[float]) -> None:
    array = np.array(values)
    assert share_up_to_median(torch.tensor(values).double()).item() == np.mean(array <= np.percentile(array, 50))


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    MultiLevelLogitLoss()(student, teacher, samples_of(3)).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_one_data_sample_for_all() -> None:
    logits = torch.randn(2, 8, 5)
    samples = samples_of(4)
    assert len(merge_samples(samples)) == 1
    assert MultiLevelLogitLoss()(*logits, merge_samples(samples)) == MultiLevelLogitLoss()(*logits, samples)


OTHER_BATCHES: dict[str, Callable[[], list | None]] = {
    'no data samples': lambda: None,
    'one view': lambda: [DataSample().set_gt_label(0) for _ in range(6)],
    'weak alone': lambda: samples_of(6)[:6],
    'in another order': lambda: samples_of(3)[::-1],
    'of other images': lambda: samples_of(4),
}


@pytest.mark.parametrize('form', OTHER_BATCHES)
def test_batches_of_another_form_are_refused(form: str) -> None:
    with pytest.raises(SettingError, match=r'a weak and a strong view of each image.*TwoViewDataset'):
        MultiLevelLogitLoss()(*torch.randn(2, 6, 5), OTHER_BATCHES[form]())


@pytest.mark.parametrize('setting', [dict(tau=0), dict(tau='4'), dict(standardize=1), dict(loss_weight=None)], ids=str)
def test_bad_settings(setting: dict) -> None:
    with pytest.raises(SettingError, match=f'MultiLevelLogitLoss: {next(iter(setting))}='):
        MultiLevelLogitLoss(**setting)


def test_other_classes_are_refused() -> None:
    with pytest.raises(SettingError, match='of the same classes'):
        MultiLevelLogitLoss()(torch.randn(4, 3), torch.randn(4, 5), samples_of(2))


def test_the_method_has_the_published_weights() -> None:
    distiller = recipes.compose('res32x4_res8x4_cifar100', ['mlkd']).model.distiller
    assert (distiller.student_loss_weight, distiller.losses.mlkd.loss.loss_weight) == (0.2, 0.9)
    assert distiller.losses.mlkd.loss.get('tau', 4.0) == 4.0
    distiller = recipes.compose('resnet34_resnet18_in1k', ['mlkd']).model.distiller
    golden = {name: GOLDEN[f'imagenet/MLKD/{name}'].item() for name in ('tau', 'kd_weight', 'ce_weight')}
    assert distiller.losses.mlkd.loss.tau == golden['tau']
    assert distiller.losses.mlkd.loss.loss_weight == golden['kd_weight']
    assert distiller.student_loss_weight == 2 * golden['ce_weight']
    assert recipes.needs_of('mlkd') == {'logits', 'views'}
