"""A linear classifier on the features of a teacher."""

import copy
from typing import Any

from mmengine.config import ConfigDict
from mmpretrain.models import ImageClassifier, LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import interpolate

from icd_mmrazor import checks
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.teacher import ready_teacher
from icd_mmrazor.models.classifiers.linear_probe import LinearProbe
from icd_mmrazor.models.networks.classifier_layer import is_headless, number_of_channels, pooling_layer
from icd_mmrazor.models.networks.features import feature_shapes, output_of
from icd_mmrazor.models.networks.headless import cut_own_classifier
from icd_mmrazor.models.networks.hubs import backbone_of_hugging_face, is_of_hub, with_published_weights
from icd_mmrazor.models.networks.image_size import image_size_of
from icd_mmrazor.models.networks.resolve import network_config, published_weights


@MODELS.register_module()
class TeacherProbe(LinearProbe):
    """A teacher without a classifier, or with one for other classes, frozen, with a new linear classifier.

    Images are resized to the size that the teacher was built for, if it has one (antialiased). A checkpoint of it is
    that of a teacher with logits: a distillation takes it with its config.

    Args:
        num_classes: Number of classes of the images.
        teacher: The network; see :func:`icd_mmrazor.models.networks.resolve.network_config`.
        teacher_ckpt: Its weights: a file or an ``https://`` address; by default those published for it. Those of a
            classifier are left out.
        feature: Which feature is classified; see ``teacher_feature`` of ``FrozenTeacherDistill``.
        cache: Whether the feature of an image is kept, so that it is computed once. Switch it off in a distillation,
            in which every image is another crop.
        random_teacher: Use the teacher without weights, to try things out.
        **kwargs: Other arguments of mmpretrain's ``ImageClassifier`` except ``backbone``, ``neck``, ``head`` and
            ``pretrained``.

    Raises:
        SettingError: ``teacher_ckpt`` is missing, or the classifier of the teacher cannot be left out.
        CheckpointError: The weights do not fit the teacher.

    Config example::

        model = dict(
            type='TeacherProbe', num_classes=10, teacher='timm/vit_small_patch14_dinov2', teacher_ckpt='dinov2.pth')
    """

    def __init__(
        self,
        num_classes: int,
        teacher: str | dict,
        teacher_ckpt: str | None = None,
        feature: str = 'auto',
        cache: bool = True,
        random_teacher: bool = False,
        **kwargs: Any,
    ) -> None:
        checks.boolean(self, 'cache', cache)
        checks.boolean(self, 'random_teacher', random_teacher)
        changed = without_classifier(teacher, 'model.teacher')
        ready = ready_teacher(changed, teacher_ckpt or published_weights(teacher), random_teacher, feature)
        network = ready.network
        size = image_size_of(network) or ready.size
        image = (number_of_channels(network), *(size or (32, 32)))
        ((width, *_),) = feature_shapes(network, [output_of(pooling_layer(network))], image)
        backbone, neck = network, _Pooled()
        if isinstance(network, ImageClassifier):
            backbone, neck = network.backbone, _Pooled(network.neck, network.head)
        self._assemble(backbone, neck, StandardisedLinearHead(num_classes, width), kwargs)
        self.cache, self.image_size = cache, size
        self._freeze({}, ready.weights)
        self.trained_on = ready.trained
        self.backbone.register_forward_pre_hook(lambda _, images: (self._resized(images[0]), *images[1:]))

    def _resized(self, images: Tensor) -> Tensor:
        if self.image_size is None or tuple(images.shape[-2:]) == self.image_size:
            return images
        return interpolate(images, self.image_size, mode='bilinear', antialias=True)

    def extract_feat(self, inputs: Tensor, stage: str = 'neck') -> tuple[Tensor, ...] | Tensor:
        """Compute the features of images, without gradients; arguments as in ``ImageClassifier``."""
        self._features[self.training, False].useful &= self.cache
        return super().extract_feat(inputs, stage)


class StandardisedLinearHead(LinearClsHead):
    """A linear classifier of features that are standardised, as in linear probing of *Masked Autoencoders*.

    Features of networks differ in scale by orders of magnitude; standardised (He et al., CVPR 2022, section A.1), one
    learning rate suits them all. Its ``fc`` reads the standardised feature, which is the pooled one of the teacher.

    Args:
        num_classes: Number of classes.
        in_channels: Width of the feature.
        **kwargs: Other arguments of ``LinearClsHead``.
    """

    def __init__(self, num_classes: int, in_channels: int, **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.norm = nn.BatchNorm1d(in_channels, affine=False, eps=1e-6)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Standardise the last feature, ``B x D``."""
        return self.norm(super().pre_logits(feats))


class _Pooled(nn.Module):
    """Neck and pooling of a teacher, in the form of mmpretrain's necks."""

    def __init__(self, *parts: nn.Module | None) -> None:
        super().__init__()
        self.parts = nn.Sequential(*(part for part in parts if part is not None))

    def forward(self, output: Any) -> tuple[Tensor]:
        return (self.parts(output),)


def name_teacher_in_full(model: ConfigDict) -> None:
    """Put the teacher into the config of its probe, so that the config stored with a run is complete."""
    if not model.get('teacher_ckpt'):
        model.teacher_ckpt = published_weights(model.get('teacher'))
    loaded = model.teacher_ckpt or model.get('random_teacher')
    model.teacher = network_config(model.teacher if loaded else with_published_weights(model.teacher), 'model.teacher')


def without_classifier(teacher: str | dict, setting: str) -> ConfigDict | nn.Module:
    """Return a network, however it is named, without its classifier: its config, or built if the backbone has it.

    Raises:
        SettingError: How to do that, or the network, is not known.
    """
    if is_of_hub(teacher):
        return ConfigDict(cfg_path=teacher, num_classes=0)
    network = copy.deepcopy(network_config(teacher, setting))
    kind = type_name(network.type)
    if kind == 'HuggingFaceClassifier':
        return backbone_of_hugging_face(network, setting)
    if kind == 'TimmClassifier':
        network.num_classes = 0
    elif kind == 'ImageClassifier':
        head, backbone = network.get('head'), network.backbone
        if (head is None or type_name(head.type) == 'ClsHead') and (backbone.get('num_classes') or 0) > 0:
            return cut_own_classifier(MODELS.build(network))
        network.head = None
    elif not is_headless(MODELS.build(network)):
        raise SettingError(
            f'{setting}: the classifier of a {kind} cannot be left out. Give an ImageClassifier, a TimmClassifier, a '
            'HuggingFaceClassifier, or a network without classifier.'
        )
    return network
