"""A student that reuses its teacher's classifier."""

from typing import Any

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.last_map import cut_after_last_map

# the classifying layer
CLASSIFIER = 'head.fc'


@MODELS.register_module()
class ProjectedClassifier(ImageClassifier):
    """A student whose last map is projected to one like its teacher's, which the teacher's classifier classifies.

    This is the student of SimKD (arXiv 2203.14001), in training and at inference. Its neck is a ``SimKDProjector``, its
    head a ``LinearClsHead`` with the teacher's weights, which are in its checkpoints. A convolution that widens the
    backbone's last map for a classifier of its own (MobileNet, EfficientNet, ShuffleNetV2) is left out.

    ``FrozenTeacherDistill`` makes it of an ordinary ``ImageClassifier`` if its distiller is a ``SimKDDistiller``; a
    config that has it already is used as it is.

    Args:
        backbone: Config of the backbone, which returns maps.
        neck: Config of the projector.
        head: Config of the head.
        **kwargs: Other arguments of mmpretrain's ``ImageClassifier``.

    Raises:
        SettingError: There is no projector or no linear head, or their widths differ.

    Config example::

        model = dict(
            type='ProjectedClassifier',
            backbone=dict(type='CIFARResNet', depth=8, stem_channels=32, base_channels=64),
            neck=dict(type='SimKDProjector', in_channels=256, out_channels=256),
            head=dict(type='LinearClsHead', num_classes=100, in_channels=256, init_cfg=None))
    """

    def __init__(self, backbone: Any, neck: Any, head: Any, **kwargs: Any) -> None:
        super().__init__(backbone, neck, head, **kwargs)
        layer = getattr(self.head, 'fc', None)
        if not (hasattr(self.neck, 'layers') and hasattr(self.neck, 'project') and isinstance(layer, nn.Linear)):
            raise SettingError(
                f'ProjectedClassifier: neck is a {type(self.neck).__name__}, head a {type(self.head).__name__}. They '
                'must be a SimKDProjector and a LinearClsHead.'
            )
        cut_after_last_map(self.backbone)
        # the teacher's weights; not a buffer, so that no checkpoint replaces them
        self._taken: Tensor | None = None

    @property
    def classifier(self) -> nn.Linear:
        """The layer that has the teacher's weights."""
        return self.get_submodule(CLASSIFIER)

    @property
    def change(self) -> str:
        """What distinguishes it from an ordinary student, for reports and tables."""
        added = sum(p.numel() for part in (self.neck, self.head) for p in part.parameters())
        return f"changed by SimKD: projector and the teacher's classifier, +{added:,} parameters, replace its own head"

    def take_classifier(self, layer: nn.Linear) -> None:
        """Copy the weights of a teacher's classifying layer, and freeze them."""
        own = self.classifier
        with torch.no_grad():
            own.weight.copy_(layer.weight)
            own.bias.zero_() if layer.bias is None else own.bias.copy_(layer.bias)
        own.requires_grad_(False)
        self._taken = own.weight.detach().cpu().clone()

    def refuse_other_classifier(self) -> None:
        """Refuse weights that have replaced those which were taken from a teacher.

        Raises:
            SettingError: They differ.
        """
        if self._taken is not None and not torch.equal(self.classifier.weight.detach().cpu(), self._taken):
            raise SettingError(
                f"SimKDDistiller: a checkpoint (load_from, resume) has replaced the teacher's classifier, {CLASSIFIER} "
                'of the student. Load the weights of a backbone with model.architecture.backbone.init_cfg=dict(type='
                '"Pretrained", checkpoint=FILE, prefix="backbone."), and resume with the same teacher.'
            )

    def init_weights(self) -> None:
        """Initialise everything but a classifier that has been taken from a teacher."""
        before = {name: value.clone() for name, value in self.classifier.state_dict().items()}
        super().init_weights()
        if self._taken is not None:
            self.classifier.load_state_dict(before)
