"""Distillation from a teacher that is truly frozen."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.compat.layout import channels_last_is_sound, flattens_by_view, laid_out
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.compilation import check_compile_options, compiled_on_request
from icd_mmrazor.models.algorithms.first_batch import checked_first_batch
from icd_mmrazor.models.algorithms.predictions import checked_additions, predictions_of, refuse_missing_predictions
from icd_mmrazor.models.algorithms.records import forget, freeze_unread_classifier, make_plain, refuse_other_classes
from icd_mmrazor.models.algorithms.separate_mixing import mixing_separately
from icd_mmrazor.models.algorithms.several_teachers import (
    ReadyTeachers,
    check_frozen,
    check_offload,
    checked_teachers,
    offload_of,
)
from icd_mmrazor.models.algorithms.shared_preprocessor import (
    adopt_student_settings,
    asks_for_weights,
    declared_preparation,
    refuse_unmixed_labels,
    warn_of_preparation,
)
from icd_mmrazor.models.algorithms.shared_teacher import SharesTeacherWeights
from icd_mmrazor.models.algorithms.student_losses import student_losses, warn_of_idle_losses
from icd_mmrazor.models.algorithms.token_students import class_token_scores
from icd_mmrazor.models.distillers.mixed_distiller import initialise_from_teacher, networks_needed_by
from icd_mmrazor.models.distillers.softmax_losses import refuse_softmax_of_labels
from icd_mmrazor.models.networks.changed_student import student_with_classifier
from icd_mmrazor.models.networks.frozen import run_frozen
from icd_mmrazor.models.networks.preparation import preparation_by
from icd_mmrazor.models.networks.pruned_copy import Pruning
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.models.networks.view import TeacherView
from icd_mmrazor.models.teacher_cache.cache import TeacherCache
from icd_mmrazor.models.teacher_cache.stored_teacher import stored_teacher


@MODELS.register_module()
class FrozenTeacherDistill(SharesTeacherWeights, SingleTeacherDistill):
    """mmrazor's ``SingleTeacherDistill`` for a teacher that is only ever read.

    The teacher's checkpoint is required, and loaded strictly from a plain weights file before the distiller sees the
    teacher. The teacher is in eval mode throughout and computes no loss. It is not a submodule, so checkpoints, the
    optimizer, DDP and EMA do not contain it; a resumed run loads it from its file again. A network whose features
    nothing compares is not run: the teacher once ``StopDistillHook`` has stopped the distillation (set
    ``find_unused_parameters=True`` with several processes), either one in an initial stage.

    Args:
        distiller: Config of the distiller.
        teacher: The teacher: a name or a config (``icd_mmrazor.models.networks.resolve.network_config``), or the built
            model; also a backbone, or any module that takes images alone. None if ``teachers`` are set.
        teacher_ckpt: The teacher's checkpoint: a file (of torch or safetensors) or an ``https://`` address. A
            distillation's checkpoint gives its student. A teacher of mmpretrain's model zoo, ``timm/`` or ``hf/``
            defaults to the published weights.
        teacher_feature: Which feature of a teacher without a classifier is ``pooled``: ``'auto'``, ``'class_token'``,
            ``'mean'``, ``'class_token+mean'`` or ``'output'``
            (:class:`icd_mmrazor.models.networks.pooled_feature.PooledFeature`).
        teacher_preprocessor: What the teacher sees of an image: ``'auto'``, as it was trained, by its checkpoint, its
            config or who published it: normalised, with channels in its order, and resized to the size of its position
            embeddings; ``'student'``, what the student sees; or what is to differ from ``'auto'``, a dict of ``mean``,
            ``std``, ``to_rgb``, ``size`` and ``interpolation``.
        teachers: Several teachers, which run one after the other: a list of ``dict(teacher=..., teacher_ckpt=...)``,
            each with its ``weight``, 1 by default, and optionally its own ``teacher_feature``,
            ``teacher_preprocessor``, ``teacher_precision`` and ``random_teacher``; those of the algorithm are for all
            others. Their combined logits are the teacher's ``logits``; features of each are called ``0.pooled``,
            ``1.logits``.
        teacher_combination: How the logits of several teachers are combined: ``'mean'`` of the logits,
            ``'probabilities'``, ``'confident'``, or the config of a custom ``Combination``.
        pruned_teacher: A pruned copy of a single teacher, which runs too (R2KD): ``dict(amount=0.1, weight=0.3)``, see
            :class:`~icd_mmrazor.models.networks.pruned_copy.Pruning`. Combined like several teachers; ``logits`` are
            those of both, and all other features those of the teacher itself.
        architecture: The student, in the same forms as the teacher. A distiller may change it (``SimKDDistiller``).
        data_preprocessor: Shared by both networks; a ``ClsDataPreprocessor`` by default. Defaults to that of the
            student, whose augmentations (``train_cfg.augments``) are used unless ``batch_augments`` is set here.
        teacher_precision: ``'fp32'``, even if the student trains under autocast; ``'bf16'`` or ``'fp16'`` (GPU only),
            under autocast; ``'bf16-true'`` or ``'fp16-true'``, with weights of half the memory, too. Losses get
            features in float32 in any case.
        teacher_offload: Where weights of the teachers wait: ``False``, on the device; ``'networks'``, on the CPU, and
            each teacher is on the device only while it runs; ``'blocks'``: likewise each of its repeated blocks.
        channels_last: Whether images and weights are laid out channels last in memory, which is faster for
            convolutions. Losses get contiguous features in any case.
        torch_compile: Whether to compile teacher, student and losses into one graph, or the options of
            ``torch.compile``: ``dict(mode='max-autotune')``. If that fails, training continues without it.
        random_teacher: Use the teacher as it is, without a checkpoint, to try things out.
        student_trainable: Same as in the base class.
        calculate_student_loss: Whether the student's own loss counts, of those images of a batch that have labels
            (``PartlyLabeledDataset``). If not, the student stops at its logits too, and needs no labels.
        teacher_cache: Settings of a cache of the teacher's outputs, which all runs with this teacher share:
            ``dict(views='all')``, see :class:`~icd_mmrazor.models.teacher_cache.cache.TeacherCache`. Once it is
            complete, ``teacher_ckpt=None`` is enough. None: the teacher runs in every step.
        predict_also: What predictions contain besides those of the student, for metrics: ``'teacher'``
            (``TeacherAgreement``) runs the teacher too, ``'pooled'`` keeps the student's feature (``KNNAccuracy``,
            ``RetrievalPrecision``).
        fold_teacher_norms: Has no effect; accepted for configs of version 0.1.
        **kwargs: Other arguments of the base class.

    Raises:
        SettingError: ``teacher_ckpt`` is missing, an argument is invalid, logits of different numbers of classes are
            compared, the channel order of the teacher's images is unknown, or a loss does not suit the labels. Also
            raised by the first batch, if networks, losses and images do not fit together.
        CheckpointError: The checkpoint is missing, is not a plain weights file, or is of another network.

    Config example::

        model = dict(
            _scope_='mmrazor',
            type='FrozenTeacherDistill',
            architecture='configs/vanilla/res8x4_cifar100.py',  # the student
            teacher='configs/vanilla/res32x4_cifar100.py',
            teacher_ckpt='work_dirs/res32x4_cifar100/epoch_240.pth',
            distiller=dict(type='ICDDistiller'))
    """

    def __init__(
        self,
        distiller: dict,
        teacher: nn.Module | dict | str | None = None,
        teacher_ckpt: str | None = None,
        *,
        architecture: nn.Module | dict | str,
        teachers: Sequence[dict] | None = None,
        teacher_combination: str | dict = 'mean',
        pruned_teacher: dict | None = None,
        data_preprocessor: nn.Module | dict | None = None,
        teacher_feature: str = 'auto',
        teacher_preprocessor: str | dict = 'auto',
        teacher_precision: str = 'fp32',
        teacher_offload: bool | str = False,
        channels_last: bool = True,
        torch_compile: bool | dict = False,
        random_teacher: bool = False,
        student_trainable: bool = True,
        calculate_student_loss: bool = True,
        teacher_cache: dict | None = None,
        predict_also: Sequence[str] = (),
        fold_teacher_norms: bool | None = None,
        **kwargs: Any,
    ) -> None:
        checks.boolean(self, 'channels_last', channels_last)
        checks.boolean(self, 'student_trainable', student_trainable)
        checks.boolean(self, 'calculate_student_loss', calculate_student_loss)
        check_compile_options(torch_compile)
        also = checked_additions(predict_also)
        check_frozen(kwargs, fold_teacher_norms)
        check_offload(teacher_offload, torch_compile)
        shared = dict(teacher_feature=teacher_feature, teacher_preprocessor=teacher_preprocessor)
        shared |= dict(teacher_precision=teacher_precision, random_teacher=random_teacher)
        settings = checked_teachers({'teacher': teacher, 'teacher_ckpt': teacher_ckpt, **shared}, teachers)
        cache = TeacherCache.of(teacher_cache)
        pruning = Pruning.of(pruned_teacher, teachers, cache)
        ready = ReadyTeachers(settings, teacher_combination, stored_teacher(cache, settings), pruning)
        if not isinstance(architecture, nn.Module):
            architecture = network_config(architecture, 'model.architecture')
        if isinstance(data_preprocessor, dict):
            # a copy: mmpretrain appends to the list of probabilities of the augmentations
            data_preprocessor = {'type': 'mmpretrain.ClsDataPreprocessor', **copy.deepcopy(data_preprocessor)}
            if data_preprocessor['type'] in ('mmpretrain.ClsDataPreprocessor', 'ClsDataPreprocessor'):
                # its parts, such as Mixup, are looked up in its scope
                data_preprocessor.setdefault('_scope_', 'mmpretrain')
        networks = dict(distiller=distiller, architecture=architecture, teacher=teacher, teachers=teachers, **shared)
        super().__init__(
            distiller,
            ready.network,
            student_trainable=student_trainable,
            calculate_student_loss=calculate_student_loss,
            architecture=student_with_classifier(networks, ready.network),
            data_preprocessor=data_preprocessor,
            **kwargs,
        )
        # a plain attribute instead of a submodule: nothing that walks the modules finds it
        del self._modules['teacher']
        object.__setattr__(self, 'teacher', ready.network.eval())
        self.teacher_ckpt, self.teacher_cache = ready.weights, cache
        # SanityCheckHook compares them with those of the images
        self.teacher_classes = ready.classes
        self.teacher_dtype, self.teacher_draws = ready.dtype, ready.draws
        self.predict_also = also
        initialise_from_teacher(self.distiller, self.teacher)
        refuse_softmax_of_labels(self.distiller, self.student, self.teacher)
        self.class_scores = class_token_scores(self)
        freeze_unread_classifier(self)
        refuse_missing_predictions(self)
        refuse_other_classes(self)
        warn_of_idle_losses(self)
        names_augmentations = isinstance(data_preprocessor, dict) and 'batch_augments' in data_preprocessor
        adopt_student_settings(self.student, self.data_preprocessor, names_augmentations)
        self.data_preprocessor = mixing_separately(self.data_preprocessor)
        refuse_unmixed_labels(self)
        self.teacher_preparation = ready.preparation(self.data_preprocessor)
        if asks_for_weights(architecture):
            used, own = preparation_by(self.data_preprocessor), declared_preparation(architecture)
            warn_of_preparation(used, own, 'the config of the pretrained student', order=True)
        ready.store_weights()
        self._lay_out_networks(channels_last)
        self.teacher_offload = offload_of(teacher_offload, self.teacher)
        self.torch_compile, self.compiled_loss = torch_compile, None
        # the first batch sets both: whether it passed, and how far the student is run if its own loss does not count
        self.first_batch_passed, self.student_pass = False, 'tensor'
        # DistillationReportHook sets it, for one batch or for some
        self.reports_gradients = False

    @property
    def teacher_view(self) -> TeacherView:
        """What turns images, as the data preprocessor returns them, into those that the teacher gets."""
        return self.teacher_preparation.view

    def _lay_out_networks(self, channels_last: bool) -> None:
        if flattens_by_view(self.architecture, self.teacher):
            channels_last = False
        self.channels_last = channels_last and channels_last_is_sound(self.architecture)
        if self.channels_last:
            self.teacher.to(memory_format=torch.channels_last)
            self.architecture.to(memory_format=torch.channels_last)
        elif channels_last:
            print_log(
                'FrozenTeacherDistill: channels_last is off, since torch computes strided 1 x 1 convolutions of few '
                'channels, as the student has, wrongly in this layout on a CPU.',
                logger='current',
            )

    def check_order_of_channels(self, source: str | None = None, gray: Callable[[], bool] = lambda: False) -> None:
        """Give the teacher the channels in its order, or refuse images where that is unknown.

        Args:
            source: The order in the dataset (``source_of_images``). Defaults to that of the teacher's own dataset.
            gray: Returns whether all channels are alike.

        Raises:
            SettingError: The order seems to differ, and cannot be known.
        """
        self.teacher_preparation.settle_order(source, gray)

    @checked_first_batch
    def loss(self, batch_inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch_inputs: Images, ``B x C x H x W``, normalised.
            data_samples: Their labels, as mmpretrain packs them.

        Returns:
            The student's own losses under ``student.``, the distiller's under ``distill.``.
        """
        if isinstance(batch_inputs, Tensor) and batch_inputs.ndim == 4:
            batch_inputs = laid_out(batch_inputs, self.channels_last)
        if self.distillation_stopped:  # by StopDistillHook
            return self._student_losses(batch_inputs, data_samples)
        cached = self.teacher_cache is not None and 'teacher' in networks_needed_by(self.distiller)
        stored = self.teacher_cache.outputs(self, batch_inputs, data_samples) if cached else None
        return self._loss(batch_inputs, data_samples, stored)

    @compiled_on_request
    def _loss(self, batch_inputs: Tensor, data_samples: list | None, stored: dict | None) -> dict[str, Tensor]:
        """Compute the losses of a batch, with the outputs of the teacher that are stored, or with the teacher."""
        self._record_teacher(batch_inputs, data_samples, stored)
        return self._compare(batch_inputs, data_samples, self._student_losses)

    def _record_teacher(self, batch_inputs: Tensor, data_samples: list | None, stored: dict | None = None) -> None:
        """Let recorders and deliveries record from the teacher, unless its outputs are stored ..."""
        distiller = self.distiller
        distiller.set_deliveries_override(False)
        if stored is not None:
            self.teacher_cache.fill_recorders(distiller, stored)
        elif 'teacher' in networks_needed_by(distiller):
            with distiller.teacher_recorders, distiller.deliveries:
                self.run_teacher(batch_inputs, data_samples)

    def _compare(self, batch_inputs: Tensor, data_samples: list | None, run_student: Callable) -> dict[str, Tensor]:
        """... hand to the student, which ``run_student`` runs, and compute its losses and those of the distiller."""
        distiller = self.distiller
        distiller.set_deliveries_override(True)
        losses: dict[str, Tensor] = {}
        with distiller.student_recorders, distiller.deliveries:
            if getattr(distiller, 'stage', None) != 'initial':
                losses = run_student(batch_inputs, data_samples)
            elif 'student' in networks_needed_by(distiller):
                self.student(batch_inputs, data_samples, mode='tensor')

        make_plain(distiller)
        losses.update(add_prefix(distiller.compute_distill_losses(), 'distill'))
        forget(distiller)
        return losses

    def run_teacher(self, batch_inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """Run the teacher on a batch, by default up to its logits; recorders keep its features."""
        return run_frozen(self.teacher, batch_inputs, data_samples, mode, self.teacher_view, self.teacher_dtype)

    def _student_losses(self, batch_inputs: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        """Run the student; return its own losses, if they count."""
        if self.calculate_student_loss:
            losses = student_losses(self.student, batch_inputs, data_samples, self.class_scores)
            weight = 1.0 if self.distillation_stopped else getattr(self.distiller, 'student_loss_weight', 1.0)
            if weight != 1.0:
                losses = {name: weight * value if 'loss' in name else value for name, value in losses.items()}
            return add_prefix(losses, 'student')
        if self.distillation_stopped:
            raise SettingError(
                'FrozenTeacherDistill: StopDistillHook stopped the distillation, and calculate_student_loss=False '
                'leaves out the loss of the student: nothing is left to train with. Remove one of the two.'
            )
        with contextlib.nullcontext() if self.student_trainable else torch.no_grad():
            self.student(batch_inputs, data_samples, mode=self.student_pass)
        return {}

    def _predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        if not self.predict_also:
            return super()._predict(inputs, data_samples)
        return predictions_of(self, inputs, data_samples)

    def train(self, mode: bool = True) -> 'FrozenTeacherDistill':
        """Set the mode of student and distiller; the teacher stays in eval mode (see ``pruned_teacher.norm_eval``)."""
        super().train(mode)
        self.teacher.train(mode and getattr(self.teacher, 'uses_batch_statistics', False))
        return self

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Return the depth of a parameter, and how many there are, for ``LearningRateDecayOptimWrapperConstructor``.

        A parameter of the student lies as deep as in the student alone, connectors and losses with its head.
        """
        name = param_name.removeprefix('architecture.')
        try:
            return self.architecture.get_layer_depth(name if name != param_name else 'head')
        except (AttributeError, NotImplementedError) as error:
            network = type(getattr(self.architecture, 'backbone', self.architecture)).__name__
            raise SettingError(
                f'FrozenTeacherDistill: the student, {network}, does not define the depths of its layers. Set another '
                'optim_wrapper.constructor, or use a student that does, such as VisionTransformer or ConvNeXt.'
            ) from error

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Move or cast the teacher along."""
        self.own_teacher_weights()
        (self.teacher_offload or self.teacher)._apply(fn, *args, **kwargs)
        self.teacher_view._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)
