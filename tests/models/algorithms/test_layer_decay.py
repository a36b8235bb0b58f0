"""Learning rates that fall with the depth of a layer, by mmpretrain's constructor."""

from collections.abc import Callable

import pytest
from mmengine.optim import build_optim_wrapper
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=16)
VIT = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=16),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16),
)
CONVNEXT = dict(
    type='ImageClassifier',
    backbone=dict(type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 8, 16])),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
)
OPTIMIZER = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    constructor='LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.5, bias_decay_mult=0.0, custom_keys={'.cls_token': dict(decay_mult=0.0)}),
)


def groups(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Return learning rate and weight decay of each parameter."""
    wrapper = build_optim_wrapper(model, OPTIMIZER)
    return {group['param_name']: (group['lr'], group['weight_decay']) for group in wrapper.optimizer.param_groups}


@pytest.mark.parametrize('student', [VIT, CONVNEXT], ids=['ViT', 'ConvNeXt'])
def test_a_student_has_the_rates_that_it_has_alone(student: dict, algorithm: Callable) -> None:
    alone = groups(MODELS.build({'_scope_': 'mmpretrain', **student}))
    model = algorithm(architecture=dict(student), distiller=dict(type='ICDDistiller', kd=dict(tau=4.0)))
    together = groups(model)
    assert len({rate for rate, _ in alone.values()}) > 3
    of_student = {name: group for name, group in together.items() if name.startswith('architecture.')}
    assert of_student == {f'architecture.{name}': group for name, group in alone.items()}
    rest = {name: rate for name, (rate, _) in together.items() if name not in of_student}
    assert {*rest} == {name for name, _ in model.named_parameters() if name.startswith('distiller.')}
    assert {*rest.values()} == {1e-3}


def test_a_network_without_depths_is_refused(algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=r'CIFARResNet.*optim_wrapper\.constructor'):
        groups(algorithm())
