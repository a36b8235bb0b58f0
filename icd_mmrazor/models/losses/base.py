"""Base classes of the losses between features."""

import inspect
from typing import ClassVar

import torch
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.functional import full_precision, pool_to_smaller


class FeatureLoss(nn.Module):
    """Loss between a feature of the student and one of the teacher.

    A subclass implements :meth:`compare` and describes itself in its class attributes. Before ``compare`` is called,
    the features are checked, cast to at least float32 (autocast is off inside), and brought to one form: maps of
    different sizes are averaged to the smaller size, everything else is flattened to ``B x D``.

    Args:
        loss_weight: Weight of the loss.

    Attributes:
        takes_maps (bool): Whether ``compare`` takes maps, ``B x C x H x W``; otherwise ``B x D``.
        takes_embeddings (bool): Whether only ``B x D`` is accepted, not maps to be flattened.
        same_width_by (str | None): The connector that gives both features the same width, for a loss that needs it.
            ``None``: the widths may differ.
        compares_images (bool): Whether the images of a batch are compared with each other; nothing is learned from a
            single image.
        gets_all_images (bool): Whether its entry in a ``FeatureDistiller`` has ``gather_distributed=True``.
        reads_labels (bool): Whether it needs the label of each image; may depend on the settings.
        reads_scores (bool): Whether it takes the scores of mixed images (Mixup, CutMix) for labels. A loss that reads
            labels but no scores is refused with them.
        reads_positions (bool): Whether it needs the positions of the images in the training set; by default, if its
            ``forward`` takes ``data_samples``.
        counts_epochs (bool): Whether it changes over the epochs: before each iteration, a ``FeatureDistiller`` calls
            its ``set_progress(epoch, iteration)``, both counted from 0.
        built_for_batches (bool): Whether it is built for batches of one size, its setting ``batch_size``: the number of
            images in a batch of one process. Our tools fill it in.
        terms (dict[str, Tensor]): What it adds to the log after a forward pass, detached; optional.
        reads_views (bool): Whether it compares a weak and a strong view of each image
            (:class:`~icd_mmrazor.datasets.TwoViewDataset`), which ``data_samples`` tell apart
            (:func:`~icd_mmrazor.datasets.samples.number_of_weak_views`).
        shown_if_changed (tuple[str, ...]): Settings that the printed model leaves out while they have their defaults.

    Example of a custom loss::

        @MODELS.register_module()
        class CentroidLoss(FeatureLoss):
            same_width_by = 'LinearProjection'

            def compare(self, student, teacher):
                return (student.mean(0) - teacher.mean(0)).square().sum()
    """

    takes_maps: ClassVar[bool] = False
    takes_embeddings: ClassVar[bool] = False
    same_width_by: ClassVar[str | None] = None
    compares_images: ClassVar[bool] = False
    gets_all_images: bool = False
    reads_labels: bool = False
    reads_scores: ClassVar[bool] = False
    counts_epochs: ClassVar[bool] = False
    reads_views: ClassVar[bool] = False
    built_for_batches: ClassVar[bool] = False
    shown_if_changed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = checks.finite(self, 'loss_weight', loss_weight)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_feature: The student's feature, ``B x C x H x W`` or ``B x D``.
            t_feature: The teacher's feature of the same images.

        Raises:
            SettingError: The two cannot be compared.
        """
        self._check(s_feature, t_feature)
        with full_precision(s_feature, t_feature) as (student, teacher):
            if self.takes_maps:
                student, teacher = pool_to_smaller(student, teacher)
            else:
                student, teacher = student.flatten(1), teacher.flatten(1)
            return self.loss_weight * self.compare(student, teacher)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss without its weight, a scalar, of maps ``B x C x H x W`` of one size, or of ``B x D``."""
        raise NotImplementedError

    def _check(self, s_feature: Tensor, t_feature: Tensor) -> None:
        name = type(self).__name__
        shapes = f's_feature is {tuple(s_feature.shape)}, t_feature {tuple(t_feature.shape)}'
        if self.takes_maps:
            dims, form, record = {4}, 'maps, images x channels x height x width', 'a stage of the network'
        elif self.takes_embeddings:
            dims, form, record = {2}, 'matrices, images x width', 'pooled features (the input of the classifier)'
        else:
            dims, form, record = {2, 3, 4}, 'features', 'a stage, or the input of the classifier'
        if not {s_feature.ndim, t_feature.ndim} <= dims or 0 in (*s_feature.shape, *t_feature.shape):
            raise SettingError(f'{name} takes two {form}: {shapes}. Record {record}.')
        if len(s_feature) != len(t_feature):
            raise SettingError(f'{name} compares features of the same images, the batch sizes differ: {shapes}.')
        widths = slice(1, 2) if self.takes_maps else slice(1, None)
        if self.same_width_by and s_feature.shape[widths].numel() != t_feature.shape[widths].numel():
            raise SettingError(
                f'{name} compares features of one width, the widths differ: {shapes}. Add a connector: '
                f'{self.same_width_by}.'
            )

    def extra_repr(self) -> str:
        """Show the settings in the printed model and in the report at the start of a run."""
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        settings = {name: getattr(self, name) for name in defaults if hasattr(self, name)}
        settings['loss_weight'] = settings.pop('loss_weight', self.loss_weight)  # last
        shown = (name for name in settings if name not in self.shown_if_changed or settings[name] != defaults[name])
        return ', '.join(f'{name}={settings[name]!r}' for name in shown)


class LogitLoss(FeatureLoss):
    """Loss between the logits of the student and those of the teacher, ``B x C`` both, of the same classes.

    The logits of the teacher get no gradient.
    """

    takes_embeddings = True
    # as many classes
    same_width_by = 'LinearProjection'

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_feature: The student's logits, ``B x C``.
            t_feature: The teacher's logits of the same images.

        Raises:
            SettingError: The two cannot be compared.
        """
        return super().forward(s_feature, t_feature.detach())

    def _check(self, s_feature: Tensor, t_feature: Tensor) -> None:
        self.check_shapes(s_feature.shape[1:], t_feature.shape[1:])
        super()._check(s_feature, t_feature)

    def check_shapes(self, s_feature: tuple[int, ...], t_feature: tuple[int, ...]) -> None:
        """Refuse logits of different classes, given their shapes without the batch.

        Raises:
            SettingError: They differ.
        """
        if tuple(s_feature) != tuple(t_feature) or len(s_feature) != 1:
            raise SettingError(
                f'{type(self).__name__} compares logits, images x classes, of the same classes; without the images, '
                f'the student has {tuple(s_feature)}, the teacher {tuple(t_feature)}. Use a teacher of the same '
                'classes.'
            )


class LabelledLogitLoss(LogitLoss):
    """Loss between logits that also reads the class of each image.

    A subclass implements ``compare(student, teacher, labels)``. A ``FeatureDistiller`` hands over the labels of the
    batch.
    """

    reads_labels = True

    def forward(self, s_feature: Tensor, t_feature: Tensor, gt_labels: Tensor) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_feature: The student's logits, ``B x C``.
            t_feature: The teacher's logits of the same images.
            gt_labels: The class of each image, integers, ``B``.

        Raises:
            SettingError: The logits cannot be compared, or there is not one label for each image.
        """
        self._check(s_feature, t_feature)
        if gt_labels.shape != s_feature.shape[:1] or gt_labels.is_floating_point() or gt_labels.dtype == torch.bool:
            raise SettingError(
                f'{type(self).__name__}: gt_labels must be one class, an integer, for each of {len(s_feature)} images; '
                f'found {tuple(gt_labels.shape)} of {gt_labels.dtype}. Images with several labels are not supported.'
            )
        with full_precision(s_feature, t_feature.detach()) as (student, teacher):
            return self.loss_weight * self.compare(student, teacher, gt_labels.long())

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss without its weight, a scalar, of logits ``B x C`` and the class of each image, ``B``."""
        raise NotImplementedError


class MemoryLoss(FeatureLoss):
    """Loss between two embeddings ``B x embed_dims`` and a memory of other images' embeddings."""

    same_width_by = 'LinearProjection'

    def __init__(self, embed_dims: int, loss_weight: float) -> None:
        super().__init__(loss_weight)
        self.embed_dims = checks.positive_int(self, 'embed_dims', embed_dims)

    def _check(self, s_feature: Tensor, t_feature: Tensor) -> None:
        super()._check(s_feature, t_feature)
        if s_feature.shape[1:] != (self.embed_dims,) or t_feature.shape[1:] != (self.embed_dims,):
            shapes = f's_feature is {tuple(s_feature.shape)}, t_feature {tuple(t_feature.shape)}'
            raise SettingError(
                f'{type(self).__name__}: embed_dims={self.embed_dims}, but {shapes}. Add a LinearProjection with '
                f'out_features={self.embed_dims} to both.'
            )
