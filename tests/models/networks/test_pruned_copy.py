"""Pruned copies of networks, against the numbers of R2KD's authors."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import DATA
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.combinations import MeanLogits
from icd_mmrazor.models.networks.pruned_copy import Pruning, pruned_copy
from icd_mmrazor.models.networks.pruned_pair import PrunedPair


def smallest_removed(weight: np.ndarray, share: float) -> np.ndarray:
    weight = weight.copy()
    weight.flat[np.argsort(np.abs(weight), axis=None)[: round(share * weight.size)]] = 0
    return weight


def test_golden_numbers() -> None:
    """Of a small network before and after the authors' pruning."""
    z = np.load(DATA / 'r2kd_loss_vectors.npz')
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(45, 7)).double()
    network.load_state_dict(
        {
            name: torch.from_numpy(z[f'prune/{name}']) if f'prune/{name}' in z else value
            for name, value in network.state_dict().items()
        }
    )
    pruned = pruned_copy(network, z['prune/rate'].item()).state_dict()
    compared = [name.removeprefix('prune/pruned_') for name in z.files if name.startswith('prune/pruned_')]
    assert {'0.weight', '3.weight', '1.running_var'} <= {*compared}
    for name in compared:
        assert torch.equal(pruned[name], torch.from_numpy(z[f'prune/pruned_{name}'])), name


@pytest.mark.parametrize('amount', [0, 0.1, 0.5])
def test_each_layer_loses_its_smallest_weights(amount: float, network: Callable) -> None:
    whole = MODELS.build(network('res8'))
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    pruned = pruned_copy(whole, amount)
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())
    assert before.keys() == pruned.state_dict().keys()
    for name, tensor in pruned.state_dict().items():
        layer = pruned.get_submodule(name.rpartition('.')[0])
        if name.endswith('weight') and isinstance(layer, nn.Conv2d | nn.Linear):
            assert (tensor == 0).sum() == round(amount * tensor.numel())
            assert np.array_equal(tensor, smallest_removed(before[name].numpy(), amount))
        else:
            assert torch.equal(tensor, before[name]), name
    assert {p.data_ptr() for p in whole.parameters()}.isdisjoint(p.data_ptr() for p in pruned.parameters())


@pytest.mark.parametrize('norm_eval', [True, False])
def test_the_mode_of_a_pair(norm_eval: bool, network: Callable) -> None:
    members = [MODELS.build(network('res8')) for _ in range(2)]
    pair = PrunedPair(members, 'mean', Pruning(weight=0.3, norm_eval=norm_eval))
    assert isinstance(pair.head, MeanLogits)
    assert pair.head.weights.tolist() == pytest.approx([0.7, 0.3])
    pair.train()
    assert not any(module.training for module in members[0].modules())
    training = {type(module) for module in members[1].modules() if module.training}
    assert training == (set() if norm_eval else {nn.BatchNorm2d})
    assert not any(module.training for module in pair.eval().modules())


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ([0.1], r'pruned_teacher=\[0\.1\]'),
        (dict(amuont=0.1), "no setting 'amuont'.*amount"),
        (dict(amount=1.0), r'amount=1\.0.*below 1'),
        (dict(amount=-0.1), r'amount=-0\.1'),
        (dict(amount='0.1'), "amount='0.1'"),
        (dict(weight=1.5), r'weight=1\.5'),
        (dict(norm_eval=1), 'norm_eval=1'),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: object, message: str) -> None:
    with pytest.raises(
        SettingError, match=f'FrozenTeacherDistill: pruned_teacher.*{message.removeprefix("pruned_teacher")}'
    ):
        Pruning.of(settings)
