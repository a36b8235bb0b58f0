"""KD-SVD against golden numbers of all published forms, a slow rewrite, and singular values without a gradient."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import DATA
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses import kdsvd_loss
from icd_mmrazor.models.losses.kdsvd_loss import KDSVDLoss, right_vectors

FORMS = {'kdsvd': 'channels', 'kdsvd_mdistiller': 'width'}


def golden_of(case: str) -> dict[str, Tensor]:
    arrays = np.load(DATA / 'kdsvd.npz')
    return {name.removeprefix(f'{case}/'): torch.from_numpy(arrays[name]) for name in arrays.files if case in name}


def maps_of(golden: dict[str, Tensor], network: str) -> list[Tensor]:
    return [golden[f'{network}_{i}'].clone() for i in range(3)]


def check(golden: dict[str, Tensor], expected: str, value: Tensor, students: list[Tensor], factor: float = 1.0) -> None:
    """Compare the loss and its gradients, those times a factor."""
    torch.testing.assert_close(value.detach(), golden[f'{expected}/loss'], rtol=1e-9, atol=1e-12)
    for i, gradient in enumerate(torch.autograd.grad(value, students)):
        torch.testing.assert_close(factor * gradient, golden[f'{expected}/grad/student_{i}'], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', ['default', 'wide'])
def test_golden_numbers(case: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the signs of the teacher's vectors that the authors' library chose."""
    g = golden_of(case)
    given = (g[f'{form}/part/teacher_v_{i}'] for i in range(3))

    def signed(vectors: Tensor) -> Tensor:
        want = next(given)
        vectors = vectors * (vectors * want).sum(dim=1, keepdim=True).sign()
        torch.testing.assert_close(vectors, want, rtol=1e-9, atol=1e-12)
        return vectors

    monkeypatch.setattr(kdsvd_loss, 'signed', signed)
    students = [m.requires_grad_() for m in maps_of(g, 'student')]
    loss = KDSVDLoss(k=g[f'{form}/setting/k'].item(), vectors=FORMS[form])
    check(g, form, loss(students, maps_of(g, 'teacher')), students)


@pytest.mark.parametrize('form', FORMS)
def test_signs_do_not_matter_for_one_vector_after_a_relu(form: str) -> None:
    g = golden_of('default')
    students = [m.requires_grad_() for m in maps_of(g, 'student')]
    check(g, form, KDSVDLoss(vectors=FORMS[form])(students, maps_of(g, 'teacher')), students)


def test_pairs_of_maps_are_summed() -> None:
    g = golden_of('default')
    students, teachers = maps_of(g, 'student'), maps_of(g, 'teacher')
    for i in range(2):
        value = KDSVDLoss()(students[i : i + 2], teachers[i : i + 2])
        torch.testing.assert_close(value, g[f'kdsvd/part/pair_{i}'], rtol=1e-9, atol=1e-12)


def test_the_authors_own_forms_are_multiples() -> None:
    g = golden_of('default')
    students = [m.requires_grad_() for m in maps_of(g, 'student')]
    images = len(students[0])
    # twice the gradient of its value
    value = KDSVDLoss(loss_weight=float(images))(students, maps_of(g, 'teacher'))
    check(g, 'kdsvd_tf2019', value, students, factor=2.0)
    torch.testing.assert_close(value.detach() / 2, g['kdsvd_tf2018/loss'], rtol=1e-9, atol=1e-12)


def leading(image: Tensor, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading singular values of a map, and the right singular vectors as rows."""
    _, values, vectors = np.linalg.svd(image.flatten(1).T.numpy(), full_matrices=False)
    return values[:number], vectors[:number]


def slow_kdsvd(students: list[Tensor], teachers: list[Tensor], k: int) -> float:
    total = 0.0
    for image in range(len(students[0])):
        below = None
        for s, t in zip(students, teachers, strict=True):
            values, of_teacher = leading(t[image], k)
            _, candidates = leading(s[image], k + 3)
            vectors = []
            for share, vector in zip(values / np.linalg.norm(values), of_teacher, strict=True):
                target = vector * np.sign(vector[np.abs(vector).argmax()])
                cosines = [each @ target for each in candidates]
                best = int(np.abs(cosines).argmax())
                vectors.append((candidates[best] * np.sign(cosines[best]) * share, target * share))
            if below is not None:
                for (s_low, t_low), (s_high, t_high) in zip(below, vectors, strict=True):
                    for s_below, t_below in zip(s_low, t_low, strict=True):
                        for s_above, t_above in zip(s_high, t_high, strict=True):
                            flows = [math.exp(-((a - b) ** 2) / 8) for a, b in ((s_below, s_above), (t_below, t_above))]
                            total += (flows[0] - flows[1]) ** 2
            below = vectors
    return total / len(students[0])


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('k', [1, 2])
def test_equals_a_slow_rewrite(k: int, dtype: torch.dtype) -> None:
    """More pixels than channels, and fewer; other sizes of the teacher."""
    generator = torch.Generator().manual_seed(k)

    def maps(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [torch.rand(2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]

    students, teachers = maps((5, 3, 3), (6, 2, 4), (8, 2, 3)), maps((5, 4, 4), (6, 2, 4), (8, 3, 3))
    want = 0.5 * slow_kdsvd(students, teachers, k)
    got = KDSVDLoss(k, loss_weight=0.5)([m.to(dtype) for m in students], [m.to(dtype) for m in teachers])
    assert got.item() == pytest.approx(want, rel=1e-8 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize('shape', [(3, 9, 5), (3, 5, 9), (2, 4, 4)])
def test_vectors_and_their_gradients_equal_those_of_an_svd(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    vectors, values = right_vectors(matrices, 3)
    _, s, v = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(values, s[:, :3] / s.norm(dim=1, keepdim=True))
    # squares, which have no sign
    weights = torch.randn(vectors.shape, dtype=torch.float64)
    got, want = (torch.autograd.grad((x.square() * weights).sum(), matrices)[0] for x in (vectors, v.mT[:, :, :3]))
    torch.testing.assert_close(vectors.square(), v.mT[:, :, :3].square())
    torch.testing.assert_close(got, want)


def dead(maps: list[Tensor]) -> list[Tensor]:
    return [0 * m for m in maps]


def dead_channels(maps: list[Tensor]) -> list[Tensor]:
    return [torch.cat([m[:, :1], 0 * m[:, 1:4], m[:, 4:]], dim=1) for m in maps]


def one_channel(maps: list[Tensor]) -> list[Tensor]:
    return [torch.cat([m[:, :1], 0 * m[:, 1:]], dim=1) for m in maps]


def equal_values(maps: list[Tensor]) -> list[Tensor]:
    """Orthogonal channels of one length: all singular values are equal."""
    return [
        torch.eye(m[0, 0].numel(), dtype=m.dtype)[: m.shape[1]].view(m.shape[1:]).expand_as(m) + 0 * m for m in maps
    ]


def constant(maps: list[Tensor]) -> list[Tensor]:
    return [1 + 0 * m for m in maps]


@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('change', [dead, dead_channels, one_channel, equal_values, constant])
def test_singular_values_without_a_gradient_give_no_nan(change: Callable, side: str) -> None:
    maps = [[torch.rand(2, 6, 3, 4), torch.rand(2, 6, 3, 3)] for _ in range(2)]
    students, teachers = (
        change(each) if side in (network, 'both') else each
        for network, each in zip(('student', 'teacher'), maps, strict=True)
    )
    leaves = [m.detach().requires_grad_() for m in students]
    value = KDSVDLoss(k=2)(leaves, teachers)
    assert value.isfinite()
    for gradient in torch.autograd.grad(value, leaves):
        assert gradient.abs().max() < 1


def test_dead_channels_leave_the_vectors_of_the_others() -> None:
    """Two dead channels have equal singular values, of which torch's own gradient is NaN."""
    matrices = torch.randn(3, 9, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 5, 2, dtype=torch.float64)
    squares = [
        right_vectors(each, 2)[0].square()[:, -5:]
        for each in (matrices, torch.cat([torch.zeros(3, 9, 2, dtype=torch.float64), matrices], dim=2))
    ]
    gradients = [torch.autograd.grad((each * weights).sum(), matrices)[0] for each in squares]
    torch.testing.assert_close(*squares)
    torch.testing.assert_close(*gradients)


def test_only_the_student_learns() -> None:
    students, teachers = ([torch.rand(2, 5, 3, 3, requires_grad=True) for _ in range(2)] for _ in range(2))
    KDSVDLoss()(students, teachers).backward()
    assert all(m.grad.abs().sum() > 0 for m in students)
    assert all(m.grad is None for m in teachers)


@pytest.mark.parametrize(
    ('pair', 'named'),
    [
        ('wrn40-2_wrn40-1_cifar100', 'map 1, map 2, map 3 .*student.* 16, 32, 64 channels, the teacher.* 32, 64, 128'),
        ('res50_vgg8_cifar100', 'map 1, .*student.* 128, 256, 512, 512 channels, the teacher.* 256, 512, 1024, 2048'),
    ],
)
def test_refuses_pairs_of_other_widths(pair: str, named: str) -> None:
    with pytest.raises(SettingError, match=f'kdsvd does not fit {pair}.*{named}.*another method'):
        recipes.compose(pair, ['kdsvd'])


@pytest.mark.parametrize(
    ('students', 'teachers', 'settings', 'named'),
    [
        ([(2, 3, 4, 4)], [(2, 3, 4, 4)], {}, 'each map with the next; the student has 1, the teacher 1'),
        ([(2, 3, 4, 4)] * 3, [(2, 3, 4, 4)] * 2, {}, 'each map with the next; the student has 3, the teacher 2'),
        ([(2, 3, 4, 4)] * 2, [(2, 3, 4, 4), (2, 5, 4, 4)], {}, 'map 2 of the two networks .* 3, 3 channels, .* 3, 5'),
        ([(2, 3, 4, 4)] * 2, [(2, 3, 4, 4), (2, 3, 4, 5)], dict(vectors='width'), 'map 2 .* 4, 4 columns, .* 4, 5'),
        ([(2, 3, 4, 4), (3, 3, 4, 4)], [(2, 3, 4, 4)] * 2, {}, r'batch sizes differ: s_features have \[2, 3\]'),
        ([(2, 3, 4, 4), (2, 3)], [(2, 3, 4, 4)] * 2, {}, 'takes maps'),
    ],
    ids=str,
)
def test_refuses_maps(students: list, teachers: list, settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=f'KDSVDLoss .*{named}'):
        KDSVDLoss(**settings)([torch.rand(shape) for shape in students], [torch.rand(shape) for shape in teachers])


@pytest.mark.parametrize(
    ('settings', 'named'), [(dict(k=0), 'k=0'), (dict(vectors='pixels'), "vectors='pixels'.*'channels', 'width'")]
)
def test_refuses_settings(settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=f'KDSVDLoss: {named}'):
        KDSVDLoss(**settings)
