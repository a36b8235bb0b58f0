"""RTK, the filtered variant of AFD, against a slow rewrite of the formula, and by its properties."""

import numpy as np
import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.afd_loss import AFDLoss

# of different numbers and sizes
STUDENT = [(3, 6, 8), (4, 3, 4)]
TEACHER = [(5, 12, 16), (4, 5, 6), (7, 1, 2), (2, 4, 4)]
IMAGES = 5


def maps(shapes: list[tuple[int, ...]], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(IMAGES, *shape, generator=generator).double() for shape in shapes]


def built(**settings: object) -> AFDLoss:
    torch.manual_seed(2)
    # equal statistics in every pass
    return AFDLoss(STUDENT, TEACHER, attention_dims=6, **settings).double().eval()


def attentive(logits: np.ndarray, vs: list, vt: list, top: int | None, over: str) -> float:
    """Compute the loss from the logits of the attention, B x T x S, and unit rows B x pixels of the maps, by loops."""
    images, teachers, students = logits.shape
    total = 0.0
    for b in range(images):
        for one in range(students if over == 'teacher' else teachers):
            own = logits[b, :, one] if over == 'teacher' else logits[b, one, :]
            kept = np.argsort(-own)[: top or len(own)]
            weights = np.exp(own[kept] - own[kept].max())
            weights /= weights.sum()
            for other, weight in zip(kept, weights, strict=True):
                t, s = (other, one) if over == 'teacher' else (one, other)
                total += weight * ((vs[t][s][b] - vt[t][b]) ** 2).mean() / images
    return total


def averaged(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Average maps B x H x W over cells."""
    out = np.zeros((len(x), *size))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * x.shape[1] // size[0], -(-(i + 1) * x.shape[1] // size[0]))
            columns = slice(j * x.shape[2] // size[1], -(-(j + 1) * x.shape[2] // size[1]))
            out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


def unit_rows(x: np.ndarray) -> np.ndarray:
    rows = x.reshape(len(x), -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ('over', 'top'), [*(('student', top) for top in (None, 1, 2)), *(('teacher', top) for top in (None, 1, 2, 3))]
)
def test_equals_a_slow_rewrite(over: str, top: int | None) -> None:
    students, teachers = maps(STUDENT, 0), maps(TEACHER, 1)
    # logarithms of weights without a filter are logits of the same softmax
    logits = built(softmax_over=over).attention(students, teachers).log().detach().numpy()
    energies = [x.square().mean(1).numpy() for x in students]
    vt = [unit_rows(x.square().mean(1).numpy()) for x in teachers]
    vs = [[unit_rows(averaged(energy, x.shape[2:])) for energy in energies] for x in teachers]
    loss = built(softmax_over=over, num_keys=top, loss_weight=3.0)
    want = 3 * attentive(logits, vs, vt, top, over)
    assert loss(students, teachers).item() == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize(('over', 'dim'), [('student', 2), ('teacher', 1)])
@pytest.mark.parametrize('top', [None, 1, 2])
def test_the_weights_of_an_image_sum_to_one_for_each_asking_map(over: str, dim: int, top: int | None) -> None:
    students, teachers = maps(STUDENT, 0), maps(TEACHER, 1)
    weights = built(softmax_over=over, num_keys=top).attention(students, teachers)
    torch.testing.assert_close(weights.sum(dim), torch.ones_like(weights.sum(dim)))
    if top is not None:
        assert ((weights > 0).sum(dim) == top).all()
    if top == 1:  # a hard selection of the largest
        chosen = built(softmax_over=over).attention(students, teachers).argmax(dim)
        assert torch.equal(weights.argmax(dim), chosen)
        assert set(weights.detach().unique().tolist()) == {0.0, 1.0}


def test_all_keys_are_no_filter_and_afd_is_the_default() -> None:
    students, teachers = maps(STUDENT, 0), maps(TEACHER, 1)
    default = built()(students, teachers)
    assert torch.equal(built(num_keys=2, softmax_over='student')(students, teachers), default)
    other = built(softmax_over='teacher')(students, teachers)
    assert torch.equal(built(softmax_over='teacher', num_keys=4)(students, teachers), other)
    assert not torch.isclose(other, default, rtol=0.01)
    # half of four, and half of three, rounded up
    half, two = (built(softmax_over='teacher', num_keys=number)(students, teachers) for number in (0.5, 2))
    assert torch.equal(half, two)
    three = AFDLoss(STUDENT, TEACHER[:3], num_keys=0.5, softmax_over='teacher').double()
    assert ((three.attention(students, teachers[:3]) > 0).sum(1) == 2).all()


def test_dropped_pairs_get_no_gradient() -> None:
    """Learned vectors of a map of the teacher that no image of the batch keeps stay as they are."""
    students, teachers = [x.requires_grad_() for x in maps(STUDENT, 0)], maps(TEACHER, 1)
    loss = built(softmax_over='teacher', num_keys=2)
    with torch.no_grad():
        # the last two are never among the largest
        loss.student_positions.copy_(loss.student_positions.abs() + 0.1)
        loss.teacher_positions[:2] = 0
        loss.teacher_positions[2:] = -1e3
    weights = loss.attention(students, teachers)
    assert (weights[:, 2:] == 0).all()
    loss(students, teachers).backward()
    assert not loss.teacher_positions.grad[2:].any()
    assert loss.teacher_positions.grad[:2].any()
    assert [bool(layers[0].weight.grad.any()) for layers in loss.queries] == [True, True, False, False]
    assert all(x.grad.any() and x.grad.isfinite().all() for x in students)


@pytest.mark.parametrize('over', ['student', 'teacher'])
def test_zero_when_all_maps_agree_whatever_their_scale(over: str) -> None:
    row = torch.randn(IMAGES, 1, 4, 4).double()
    students, teachers = [row * 2, row.repeat(1, 3, 1, 1) * 0.5], [row * 7, row, row * 3]
    loss = AFDLoss([(1, 4, 4), (3, 4, 4)], [(1, 4, 4)] * 3, attention_dims=4, num_keys=1, softmax_over=over).double()
    assert loss(students, teachers).item() == pytest.approx(0, abs=1e-25)


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(num_keys=0), 'num_keys=0'),
        (dict(num_keys=-1), 'num_keys=-1'),
        (dict(num_keys=2.0), r'num_keys=2\.0'),
        (dict(num_keys=0.0), r'num_keys=0\.0'),
        (dict(num_keys=True), 'num_keys=True'),
        (dict(num_keys='all'), "num_keys='all'"),
        (dict(num_keys=3), 'num_keys=3, but the student has 2 maps.*None for all'),
        (dict(num_keys=5, softmax_over='teacher'), 'num_keys=5, but the teacher has 4 maps'),
        (dict(softmax_over='both'), "softmax_over='both'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        AFDLoss(STUDENT, TEACHER, **settings)


def test_the_report_shows_the_variant_only() -> None:
    assert built().extra_repr() == 'attention_dims=6, loss_weight=1.0'
    shown = built(num_keys=0.5, softmax_over='teacher').extra_repr()
    assert shown == "attention_dims=6, num_keys=0.5, softmax_over='teacher', loss_weight=1.0"


def test_the_method_keeps_half_of_the_teachers_blocks_and_is_without_kd_next_to_others() -> None:
    cfg = recipes.compose('res20_res8_digits', ['rtk', 'icd'])
    rtk = cfg.model.distiller.distillers.rtk
    assert [*rtk.losses] == ['rtk']
    model = MODELS.build({**cfg.model, 'teacher_ckpt': None, 'random_teacher': True})
    loss = model.distiller.distillers['rtk'].distill_losses['loss_rtk']
    students, teachers = (
        [torch.randn(2, *shape) for shape in shapes] for shapes in (loss._student_shapes, loss._teacher_shapes)
    )
    assert ((loss.attention(students, teachers) > 0).sum(1) == 5).all()  # of the nine of a ResNet-20
    assert [*recipes.compose_distiller(['rtk'])['losses']] == ['rtk', 'kd']
