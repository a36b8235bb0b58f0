"""Features and logits against the network's own parts, image by image."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TOOLS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from icd_mmrazor.errors import CheckpointError, SettingError

sys.path.insert(0, str(TOOLS / 'analysis'))
from network_outputs import Images, load_network, network_outputs

sys.path.remove(str(TOOLS / 'analysis'))

MEAN, STD = 78.0, 81.0


@pytest.fixture
def images(demo_config: Callable[..., Config]) -> Images:
    init_default_scope('mmpretrain')
    cfg = demo_config('res8_digits').test_dataloader
    cfg.batch_size = 7
    return Images.from_cfg(cfg)


def test_outputs(network: Callable, teacher_file: Callable[..., str], images: Images, images_file: Path) -> None:
    networks = []
    for name in ('res8', 'wrn16-1'):
        cfg = {**network(name), 'data_preprocessor': dict(mean=[MEAN] * 3, std=[STD] * 3)}
        networks.append(load_network(name, cfg, teacher_file(name), 'auto', 'source'))
    chosen = images.choose([1, 4, 7], at_most=10, seed=0)
    assert len(chosen.chosen) == 10
    np.testing.assert_array_equal(chosen.chosen, np.unique(chosen.chosen))
    assert set(chosen.chosen_labels) <= {1, 4, 7}
    np.testing.assert_array_equal(chosen.chosen_labels, chosen.chosen % 10)

    outputs = network_outputs(networks, chosen)
    stored = np.load(images_file)['test_images']
    for each, output in zip(networks, outputs, strict=True):
        assert each.num_classes == 10
        assert not each.model.training
        for place, feature, logits in zip(chosen.chosen, output.features, output.logits, strict=True):
            image = (torch.from_numpy(stored[place]).float().expand(1, 3, -1, -1) - MEAN) / STD
            with torch.no_grad():
                expected = each.model.backbone(image)[-1].mean(dim=(2, 3))
                torch.testing.assert_close(torch.from_numpy(feature)[None], expected, rtol=1e-4, atol=1e-5)
                expected = each.model.head.fc(expected)
            torch.testing.assert_close(torch.from_numpy(logits)[None], expected, rtol=1e-4, atol=1e-4)


def test_choice_is_repeatable(images: Images) -> None:
    everything = images.choose(range(10), at_most=None, seed=0)
    np.testing.assert_array_equal(everything.chosen, np.arange(40))
    first, again, other = (images.choose(range(10), 20, seed).chosen.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_refused(network: Callable, teacher_file: Callable[..., str], images: Images, tmp_path: Path) -> None:
    cfg, file = network('res8'), teacher_file('res8')
    with pytest.raises(SettingError, match=r"student_source='head\.gap'"):
        load_network('a', cfg, file, 'head.gap', 'student_source')
    with pytest.raises(SettingError, match='a cannot be built'):
        load_network('a', {**cfg, 'backbone': dict(type='Unheard')}, file, 'auto', 'source')
    with pytest.raises(CheckpointError, match='a: checkpoint'):
        load_network('a', cfg, teacher_file('res20'), 'auto', 'source')
    weights = torch.load(file)['state_dict']
    weights['head.fc.bias'][3] = torch.nan
    torch.save(weights, tmp_path / 'nan.pth')
    broken = load_network('a', cfg, tmp_path / 'nan.pth', 'auto', 'source')
    with pytest.raises(CheckpointError, match='a: '):
        network_outputs([broken], images.choose([0], None, 0))
