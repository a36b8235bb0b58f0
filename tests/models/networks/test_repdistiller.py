"""Published checkpoints, recognised and converted; tests/tools/test_converter.py compares their outputs."""

import pytest
import torch

from icd_mmrazor.errors import CheckpointError
from icd_mmrazor.models.networks import repdistiller
from icd_mmrazor.models.networks.repdistiller import ARCHITECTURES, convert

pytestmark = pytest.mark.stack


def synthetic(tensors: dict[str, list[int]], classes: int) -> dict[str, torch.Tensor]:
    classifier = ('fc.', 'linear.', 'classifier.')
    shapes = {name: [classes, *shape[1:]] if name.startswith(classifier) else shape for name, shape in tensors.items()}
    return {name: torch.rand(shape) for name, shape in shapes.items()}


@pytest.mark.slow
def test_every_architecture_is_recognised(architectures: dict) -> None:
    assert set(ARCHITECTURES) == set(architectures)
    for name in architectures:
        weights = synthetic(architectures[name]['state_dict'], 10)
        converted = convert({'model': weights}, 'file')
        assert converted['meta']['architecture'] == name
        assert len(converted['state_dict']) == len(weights)


def test_few_networks_are_built_to_recognise_one(architectures: dict) -> None:
    repdistiller._state_dict_of.cache_clear()
    for name in ('MobileNetV2', 'ShuffleV2'):
        convert({'model': synthetic(architectures[name]['state_dict'], 100)}, 'file')
    # the tensors of ShuffleV2 begin like those of ShuffleV1
    assert repdistiller._state_dict_of.cache_info().misses == 3


FAMILIES = ['resnet8', 'wrn_16_1', 'vgg8', 'ResNet50', 'MobileNetV2', 'ShuffleV1', 'ShuffleV2']


@pytest.mark.parametrize('other', FAMILIES)
def test_refuses_the_tensors_of_another_architecture(other: str, architectures: dict) -> None:
    weights = synthetic(architectures['resnet14' if other == 'resnet8' else other]['state_dict'], 100)
    for name in FAMILIES:
        if name != other:
            with pytest.raises(CheckpointError, match=name):
                convert({'model': weights}, 'file', name)
    weights['extra.weight'] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r'resnet8, .*ShuffleV2'):
        convert({'model': weights}, 'file')


def test_tensors_in_another_order_are_refused(architectures: dict) -> None:
    weights = synthetic(architectures['resnet8']['state_dict'], 100)
    for order in (sorted(weights), [*weights][::-1]):
        with pytest.raises(CheckpointError, match=r'resnet8 does not fit[^$]*backbone\.'):
            convert({'model': {name: weights[name] for name in order}}, 'file', 'resnet8')
