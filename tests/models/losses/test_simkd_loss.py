"""SimKD against golden numbers of its release, a slow rewrite, and what its projector refuses."""

import math

import numpy as np
import pytest
import torch
from helpers import DATA
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import SimKDProjector
from icd_mmrazor.models.losses.simkd_loss import SimKDLoss

GOLDEN = dict(np.load(DATA / 'simkd.npz'))
CASES = sorted({name.partition('/')[0] for name in GOLDEN})
CLOSE = dict(rtol=1e-9, atol=1e-12)


class Case:
    """A golden case: its inputs, and a projector with its weights, which are called ``transfer.N`` in the release."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.student = self.tensor('student').requires_grad_()
        self.teacher = self.tensor('teacher').requires_grad_()
        size = tuple(self.teacher.shape[2:])
        shrinks = self.student.shape[2] > size[0]
        self.projector = SimKDProjector(
            self.student.shape[1],
            self.teacher.shape[1],
            factor=int(self.tensor('simkd/setting/factor')),
            size=size if shrinks else None,
        ).double()
        self.projector.load_state_dict({**self.group('simkd/param'), **self.group('simkd/buffer_before')}, strict=False)

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(GOLDEN[f'{self.name}/{name}'])

    def group(self, name: str) -> dict[str, Tensor]:
        prefix = f'{self.name}/{name}/'
        names = [each.removeprefix(prefix) for each in GOLDEN if each.startswith(prefix)]
        return {each.replace('transfer.', 'layers.'): self.tensor(f'{name}/{each}') for each in names}

    def logits(self, pooled: Tensor) -> Tensor:
        return pooled @ self.tensor('teacher_fc.weight').T + self.tensor('teacher_fc.bias')


@pytest.mark.parametrize('name', CASES)
def test_golden_numbers(name: str) -> None:
    case = Case(name)
    projector = case.projector.train()
    projected = projector.project(case.student)
    torch.testing.assert_close(projected, case.tensor('simkd/part/projected'), **CLOSE)
    loss = SimKDLoss()(projected, case.teacher)
    torch.testing.assert_close(loss, case.tensor('simkd/loss'), **CLOSE)
    parameters = dict(projector.named_parameters())
    expected = case.group('simkd/grad')
    assert expected.keys() == {'student', *parameters}
    found = torch.autograd.grad(loss, [case.student, *parameters.values()])
    for each, gradient in zip(['student', *parameters], found, strict=True):
        torch.testing.assert_close(gradient, expected[each], **CLOSE)
    buffers = dict(projector.named_buffers())
    for each, value in case.group('simkd/buffer_after').items():
        torch.testing.assert_close(buffers[each], value, **CLOSE)
    # at inference, with these statistics
    (pooled,) = projector.eval()((torch.zeros(1), case.student))
    torch.testing.assert_close(case.logits(pooled), case.tensor('simkd/part/eval_logits_after'), **CLOSE)


@pytest.mark.parametrize('name', CASES)
def test_golden_logits_in_training(name: str) -> None:
    case = Case(name)
    (pooled,) = case.projector.train()(case.student)
    torch.testing.assert_close(case.logits(pooled), case.tensor('simkd/part/train_logits'), **CLOSE)


def test_the_teacher_gets_no_gradient() -> None:
    case = Case(CASES[0])
    loss = SimKDLoss()(case.projector.project(case.student), case.teacher)
    assert torch.autograd.grad(loss, case.teacher, allow_unused=True) == (None,)


def slow(student: Tensor, teacher: Tensor) -> float:
    """Average the larger map to the cells of the smaller one, value by value, and the squares of the differences."""
    maps = [each.tolist() for each in (student, teacher)]
    height, width = (min(each.shape[axis] for each in (student, teacher)) for axis in (2, 3))

    def cell(image: int, channel: int, row: int, column: int, which: int) -> float:
        rows, columns = len(maps[which][0][0]), len(maps[which][0][0][0])
        values = [
            maps[which][image][channel][i][j]
            for i in range(row * rows // height, math.ceil((row + 1) * rows / height))
            for j in range(column * columns // width, math.ceil((column + 1) * columns / width))
        ]
        return sum(values) / len(values)

    places = [
        (image, channel, row, column)
        for image in range(len(student))
        for channel in range(student.shape[1])
        for row in range(height)
        for column in range(width)
    ]
    return sum((cell(*place, 0) - cell(*place, 1)) ** 2 for place in places) / len(places)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ('of_student', 'of_teacher'),
    [((3, 4, 4), (3, 4, 4)), ((2, 2, 2), (2, 4, 4)), ((4, 5, 3), (4, 3, 2)), ((1, 1, 1),) * 2],
)
def test_agrees_with_a_slow_rewrite(
    of_student: tuple[int, ...], of_teacher: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(sum(of_student))
    student, teacher = (torch.randn(3, *shape, generator=generator, dtype=dtype) for shape in (of_student, of_teacher))
    loss = SimKDLoss(loss_weight=2.5)(student, teacher)
    assert loss.dtype is dtype
    assert float(loss) == pytest.approx(2.5 * slow(student, teacher), rel=1e-5 if dtype is torch.float32 else 1e-12)


def test_layers_of_the_release() -> None:
    layers = SimKDProjector(10, 16, factor=3).layers
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    assert [tuple(layer.weight.shape) for layer in convolutions] == [(5, 10, 1, 1), (5, 5, 3, 3), (16, 5, 1, 1)]
    assert all(layer.bias is None for layer in convolutions)
    assert isinstance(layers[-1], torch.nn.ReLU)
    (negative,) = SimKDProjector(10, 16, last_relu=False).train()(torch.randn(4, 10, 3, 3))
    assert (negative < 0).any()
    (positive,) = SimKDProjector(10, 16).train()(torch.randn(4, 10, 3, 3))
    assert (positive >= 0).all()


def test_a_smaller_map_stays_as_it_is() -> None:
    projector = SimKDProjector(2, 4, size=(4, 4))
    assert projector.project(torch.randn(2, 2, 2, 8)).shape == (2, 4, 2, 4)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(factor=0), 'factor=0'),
        (dict(factor=9), r'factor=9 .*8 channels'),
        (dict(in_channels=0), 'in_channels=0'),
        (dict(out_channels=2.0), r'out_channels=2\.0'),
        (dict(size=4), 'size=4'),
        (dict(size=(4, 0)), r'size=\(4, 0\)'),
        (dict(last_relu=1), 'last_relu=1'),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SimKDProjector(**{**dict(in_channels=4, out_channels=8), **settings})


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        (((2, 3, 4, 4), (2, 5, 4, 4)), 'SimKDProjector'),
        (((2, 3, 4, 4), (1, 3, 4, 4)), 'batch sizes'),
        (((2, 3), (2, 3)), 'maps'),
    ],
)
def test_features_that_cannot_be_compared(shapes: tuple, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SimKDLoss()(*(torch.zeros(shape) for shape in shapes))
