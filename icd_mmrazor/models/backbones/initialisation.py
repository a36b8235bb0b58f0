"""Initialisation of the published networks that leave it to torch."""

from mmengine.model import BaseModule


def initialise_as_torch(backbone: BaseModule) -> None:
    """Initialise a backbone as its ``init_cfg`` says, or as torch initialises its layers without one.

    mmcv's ``ConvModule`` and some backbones of mmpretrain have their own initialisation.

    Args:
        backbone: The network, which is changed.
    """
    BaseModule.init_weights(backbone)
    if not backbone.init_cfg:
        for module in backbone.modules():
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()
