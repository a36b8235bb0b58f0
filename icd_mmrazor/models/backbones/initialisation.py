"""How weights start where the published network leaves it to torch."""

from mmengine.model import BaseModule


def initialise_as_torch(backbone: BaseModule) -> None:
    """Initialise a backbone as its ``init_cfg`` says, without one as torch initialises its layers.

    mmcv's ``ConvModule`` has an initialisation of its own, and so have some backbones of mmpretrain.

    Args:
        backbone: The network, which is changed.
    """
    BaseModule.init_weights(backbone)
    if not backbone.init_cfg:
        for module in backbone.modules():
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()
