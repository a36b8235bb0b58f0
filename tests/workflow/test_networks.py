"""Networks as the command prepares them."""

import pytest
from mmengine.registry import DefaultScope
from mmpretrain import get_model
from mmpretrain.registry import MODELS
from torch import nn

from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.workflow.networks import with_common_statistics


def momentums(network: nn.Module) -> set[float]:
    return {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)}


def test_statistics_of_a_short_training() -> None:
    """MobileNetV3 follows as other networks do; what a config says stays, and so does the rest of the network."""
    name = 'mobilenet-v3-small_8xb128_in1k'
    plain = get_model(name)
    cfg = network_config(name, 'student')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        changed = MODELS.build(with_common_statistics(cfg))
        cfg.backbone.norm_cfg = dict(type='BN', momentum=0.02)
        own = MODELS.build(with_common_statistics(cfg))
    assert (momentums(plain), momentums(changed), momentums(own)) == ({0.01}, {0.1}, {0.02})
    assert str(changed).replace('momentum=0.1', 'momentum=0.01') == str(plain)


@pytest.mark.parametrize('name', ['resnet18_8xb32_in1k', 'timm/test_vit'])
def test_networks_that_follow_already_stay(name: str) -> None:
    cfg = network_config(name, 'student')
    assert with_common_statistics(cfg) is cfg
