"""What a teacher sees of the images of a run, against its own data preprocessor on the raw pixels."""

import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from torch import Tensor
from torch.nn.functional import interpolate

from icd_mmrazor.models.networks.preparation import preparation_by
from icd_mmrazor.models.networks.view import TeacherView

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
CLIP = dict(mean=[122.7709383, 116.7460125, 104.09373615], std=[68.5005327, 66.6321579, 70.32316305])
INCEPTION = dict(mean=[127.5] * 3, std=[127.5] * 3)
GRAY = dict(mean=[120.0], std=[60.0])
NOTHING: dict = {}


@pytest.fixture
def pixels() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (4, 3, 12, 10), dtype=torch.uint8, generator=generator))


def prepared(pixels: list[Tensor], **settings: object) -> Tensor:
    return ClsDataPreprocessor(**settings)(dict(inputs=list(pixels)))['inputs']


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('own', [IMAGENET, CLIP, INCEPTION, GRAY], ids=['imagenet', 'clip', 'inception', 'gray'])
@pytest.mark.parametrize('used', [IMAGENET, INCEPTION, CLIP, NOTHING], ids=['imagenet', 'inception', 'clip', 'raw'])
def test_pixels_are_normalised_as_the_teacher_does(used: dict, own: dict, turned: bool, pixels: list[Tensor]) -> None:
    view = TeacherView(preparation_by(used), preparation_by(own))
    view.turn(turned)
    want = prepared(pixels, **own, to_rgb=turned)
    torch.testing.assert_close(view(prepared(pixels, **used)), want, rtol=1e-6, atol=1e-6)
    assert view.changes == (turned or own is not used)
    # on what is already turned for the student
    view.turn(not turned)
    torch.testing.assert_close(view(prepared(pixels, **used, to_rgb=True)), want, rtol=1e-6, atol=1e-6)


def test_the_same_preparation_changes_nothing(pixels: list[Tensor]) -> None:
    images = prepared(pixels, **IMAGENET)
    for own in (None, preparation_by(IMAGENET), preparation_by({**IMAGENET, 'to_rgb': True})):
        for size in (None, (12, 10)):
            assert TeacherView(preparation_by(IMAGENET), own, size)(images) is images
    assert not TeacherView(preparation_by(IMAGENET)).changes
    assert not TeacherView(preparation_by(IMAGENET)).state_dict()


def test_mixed_images_are_mixed_for_the_teacher(pixels: list[Tensor]) -> None:
    view = TeacherView(preparation_by(IMAGENET), preparation_by(CLIP), (8, 8))
    view.turn(True)
    images = prepared(pixels, **IMAGENET)
    mixed = 0.3 * images + 0.7 * images.flip(0)
    torch.testing.assert_close(view(mixed), 0.3 * view(images) + 0.7 * view(images.flip(0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_sizes(interpolation: str, pixels: list[Tensor]) -> None:
    """Smaller without aliasing, and after the resize the same values as before it."""
    view = TeacherView(preparation_by(IMAGENET), preparation_by(CLIP), (5, 6), interpolation)
    resized = interpolate(torch.stack(pixels).double(), (5, 6), mode=interpolation, antialias=True)
    mean, std = (torch.tensor(CLIP[name], dtype=torch.float64).view(3, 1, 1) for name in ('mean', 'std'))
    want = (resized - mean) / std
    torch.testing.assert_close(view(prepared(pixels, **IMAGENET)).double(), want, rtol=1e-5, atol=1e-5)
    # a pattern of single pixels becomes gray, where every second one would be taken without antialiasing
    board = (torch.arange(16)[:, None] + torch.arange(16) % 2) % 2
    images = board.float().expand(1, 3, 16, 16)
    small = TeacherView(preparation_by({}), None, (8, 8), interpolation)(images)
    assert (small[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.05


def test_the_layout_stays(pixels: list[Tensor]) -> None:
    images = prepared(pixels, **IMAGENET).contiguous(memory_format=torch.channels_last)
    view = TeacherView(preparation_by(IMAGENET), preparation_by(CLIP), (24, 24))
    assert view(images).is_contiguous(memory_format=torch.channels_last)


def test_what_it_says() -> None:
    view = TeacherView(preparation_by(IMAGENET), preparation_by(INCEPTION), (24, 32), 'bicubic')
    view.turn(True)
    assert view.extra_repr() == (
        'mean [127.5, 127.5, 127.5], std [127.5, 127.5, 127.5], channels in reverse order, 24 x 32 pixels (bicubic)'
    )
