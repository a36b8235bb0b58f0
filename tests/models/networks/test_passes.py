"""Errors of a first forward pass."""

import copy

import pytest
import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.networks.passes import explained_pass


class Failing(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


IMAGES = torch.zeros(2, 3, 8, 8)


def test_the_layer_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(5, 4, 3, stride=2)))
    other = copy.deepcopy(network)
    with (
        pytest.raises(SettingError, match=r'It: .*\(2, 3, 8, 8\).* model\.student\.1\.0, Conv2d\(5, 4, .*RuntimeError'),
        explained_pass('It', IMAGES, **{'model.teacher': other, 'model.student': network}),
    ):
        network(IMAGES)


@pytest.mark.parametrize('error', [ValueError('odd'), KeyError('absent'), AttributeError('nothing'), AssertionError()])
def test_what_layers_raise_is_explained(error: Exception) -> None:
    network = nn.Sequential(Failing(error))
    with pytest.raises(SettingError, match=rf'model\.0, Failing\(\).*{type(error).__name__}') as caught:  # noqa: SIM117
        with explained_pass('It', IMAGES, model=network):
            network(IMAGES)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    'error',
    [
        CheckpointError('ours'),
        torch.OutOfMemoryError('CUDA out of memory'),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
        RuntimeError('CUDA error: device-side assert triggered'),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_stay_what_they_are(error: BaseException) -> None:
    network = Failing(error)
    with pytest.raises(type(error)) as caught, explained_pass('It', IMAGES, model=network):
        network(IMAGES)
    assert caught.value is error


def test_errors_of_other_processes_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match='process group'), explained_pass('It', IMAGES):
        torch.distributed.all_reduce(IMAGES)


def test_missing_labels_are_told_apart_from_misfits() -> None:
    class Reading(nn.Module):
        def forward(self, samples: list[DataSample]) -> Tensor:
            return samples[0].gt_label

    network = nn.Sequential(Reading())
    with pytest.raises(SettingError, match=r'labels.*model\.0'), explained_pass('It', IMAGES, model=network):
        network([DataSample()])
