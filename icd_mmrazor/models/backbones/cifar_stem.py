"""The common base of the ShuffleNets of the CIFAR experiments."""

from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import nn


class CIFARStem(BaseModule):
    """A ShuffleNet of mmpretrain with a 1 x 1 first convolution, no pooling after it, and torch's initialisation."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv1 = ConvModule(3, self.conv1.out_channels, 1, **self._layer_cfgs)
        self.maxpool = nn.Identity()

    @property
    def _layer_cfgs(self) -> dict[str, Any]:
        return dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says, or as torch does without one."""
        # mmcv's ConvModule and mmpretrain's networks have their own initialisation
        BaseModule.init_weights(self)
        if not self.init_cfg:
            for module in self.modules():
                if hasattr(module, 'reset_parameters'):
                    module.reset_parameters()
