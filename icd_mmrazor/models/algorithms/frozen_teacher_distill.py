"""Distillation from a teacher that is really frozen."""

import contextlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.checkpoints.reading import load_strictly, read_checkpoint, weights_of
from icd_mmrazor.compat import channels_last_is_sound, keep_layout_when_compiled, laid_out
from icd_mmrazor.compat.recording import follow_modules
from icd_mmrazor.datasets.class_names import class_names
from icd_mmrazor.datasets.samples import as_one_sample, takes_joined_labels
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.frozen_network import FrozenNetwork
from icd_mmrazor.models.algorithms.records import forget, make_plain, recorders_of
from icd_mmrazor.models.algorithms.shared_preprocessor import (
    adopt_student_settings,
    asks_for_weights,
    channels_of,
    compare_preparations,
    refuse_unmixed_labels,
    warn_of_first_weights,
    warn_of_normalisation,
)
from icd_mmrazor.models.algorithms.student_pass import check_labels, needed_pass
from icd_mmrazor.models.distillers.mixed_distiller import initialise_from_teacher, networks_needed_by
from icd_mmrazor.models.distillers.softmax_losses import refuse_softmax_of_labels
from icd_mmrazor.models.networks.classifier_layer import number_of_classes
from icd_mmrazor.models.networks.passes import explained_pass
from icd_mmrazor.models.networks.preparation import Preparation, preparation_by, preparation_of_checkpoint
from icd_mmrazor.models.networks.resolve import network_config, published_weights


@MODELS.register_module()
class FrozenTeacherDistill(SingleTeacherDistill):
    """mmrazor's ``SingleTeacherDistill`` for a teacher that is only ever read.

    It differs from its base class in this:

    * the teacher's checkpoint is required, read with ``weights_only=True`` and loaded strictly, before the distiller
      sees the teacher;
    * the teacher is in eval mode in full (its dropout too), and its forward pass stops at the logits: no loss;
    * it is no submodule, so nothing that walks a model's parameters, buffers or modules meets it: checkpoints, the
      optimizer, DDP, EMA and mmengine's averaging of buffers. It still follows ``to()``, ``cuda()``, ``double()``.
      A resumed run loads it again from its file;
    * once ``StopDistillHook`` has stopped the distillation it is not run any more (several processes then need
      ``find_unused_parameters=True`` in the config: the projections are idle);
    * ``OFDDistiller`` works in it without an algorithm class of its own, and so do distillers that train in two
      stages: in the initial one the student's own loss does not count, and a network whose features nothing compares
      is not run.

    Args:
        distiller: Config of the distiller. Losses between softmaxes of logits are refused where a network has a head
            for several labels an image.
        teacher: The teacher: a name or a config, as
            :func:`icd_mmrazor.models.networks.resolve.network_config` takes them, or the built model.
        teacher_ckpt: The teacher's checkpoint: a file or an ``https://`` address. A distillation checkpoint gives its
            student. A teacher named by a name of mmpretrain's model zoo has the published weights if there is none.
        architecture: The student, in the same forms.
        data_preprocessor: What both networks see the images through: that of the student's config unless this, or the
            run's config, gives one. Its type is mmpretrain's ``ClsDataPreprocessor`` unless it names another. The
            augmentations of whole batches, such as Mixup, are the student's (``train_cfg.augments``) unless it has a
            setting ``batch_augments``.
        teacher_precision: What the teacher computes in: ``'fp32'`` (the precision of its weights, also where the
            student trains under autocast), ``'bf16'`` or ``'fp16'`` (GPU). Losses get features in float32 in any case.
        fold_teacher_norms: Whether the teacher's batch norms are folded into its convolutions, in a copy. In float32
            features stay equal to 1e-5.
        channels_last: Whether images and weights of both networks lie in memory channels last, which convolutions
            are faster with. Losses get features laid out as always.
        torch_compile: Whether ``torch.compile`` makes one graph of teacher, student and losses; or a dictionary of its
            options: ``dict(mode='max-autotune')``. It takes a minute at the start. Where it fails, the log says so
            and the run goes on without it.
        random_teacher: Take the teacher as it is, without a checkpoint: for tests of the plumbing.
        student_trainable: As of the base class.
        calculate_student_loss: Whether the student learns from its own loss, too. ``False``: from the losses of the
            distiller alone; its pass then ends with the logits, as the teacher's does, and neither it nor a loss
            between features needs labels.
        **kwargs: Other arguments of the base class.

    Raises:
        SettingError: ``teacher_ckpt`` is not given, a network is named that there is not, teacher and student have
            different numbers of classes, the teacher was trained on images with another order of the channels, a loss
            goes by labels of images that are mixed, a switch is neither True nor False, ``torch_compile`` has options
            that ``torch.compile`` has not, the device cannot compute in ``teacher_precision``, or the first batch
            cannot be computed: networks, losses and images do not fit each other.
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
        teacher: BaseModel | dict | str,
        teacher_ckpt: str | None = None,
        *,
        architecture: BaseModel | dict | str,
        data_preprocessor: nn.Module | dict | None = None,
        teacher_precision: str = 'fp32',
        fold_teacher_norms: bool = True,
        channels_last: bool = True,
        torch_compile: bool | dict = False,
        random_teacher: bool = False,
        student_trainable: bool = True,
        calculate_student_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        if not random_teacher:
            teacher_ckpt = teacher_ckpt or published_weights(teacher)
        if not teacher_ckpt and not random_teacher:
            raise SettingError(
                f'FrozenTeacherDistill: teacher_ckpt={teacher_ckpt!r}. A student can only learn from trained weights: '
                'give model.teacher_ckpt, for example --cfg-options model.teacher_ckpt=FILE. Train a teacher with '
                'tools/train.py configs/vanilla/..., or convert a published one with '
                'tools/model_converters/repdistiller_to_mmpretrain.py.'
            )
        for name, frozen in (('teacher_trainable', False), ('teacher_norm_eval', True)):
            if kwargs.get(name, frozen) != frozen:
                raise SettingError(
                    f'FrozenTeacherDistill: {name}={kwargs[name]}, but its teacher is frozen. Remove the setting, or '
                    "use mmrazor's SingleTeacherDistill."
                )
        switches = dict(
            fold_teacher_norms=fold_teacher_norms,
            channels_last=channels_last,
            random_teacher=random_teacher,
            student_trainable=student_trainable,
            calculate_student_loss=calculate_student_loss,
        )
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise SettingError(f'FrozenTeacherDistill: {name}={value!r} must be True or False.')
        _check_compile_options(torch_compile)
        # strictly and first: the base class loads leniently, and after the distiller could have read the weights
        if not isinstance(architecture, nn.Module):
            architecture = network_config(architecture, 'model.architecture')
        if not isinstance(teacher, nn.Module):
            teacher = network_config(teacher, 'model.teacher')
        told, trained, teacher_classes = _preparation_told(teacher), None, None
        if not isinstance(teacher, nn.Module):
            teacher = MODELS.build(teacher)
        if not random_teacher:
            checkpoint = read_checkpoint(teacher_ckpt)
            load_strictly(teacher, weights_of(checkpoint, teacher_ckpt), f'{teacher_ckpt=!s}')
            trained, teacher_classes = preparation_of_checkpoint(checkpoint), class_names(checkpoint.get('meta'))
        names_augmentations = isinstance(data_preprocessor, dict) and 'batch_augments' in data_preprocessor
        if isinstance(data_preprocessor, dict):
            data_preprocessor = {'type': 'mmpretrain.ClsDataPreprocessor', **data_preprocessor}
        super().__init__(
            distiller,
            teacher,
            student_trainable=student_trainable,
            calculate_student_loss=calculate_student_loss,
            architecture=architecture,
            data_preprocessor=data_preprocessor,
            **kwargs,
        )
        self.teacher_ckpt = 'random' if random_teacher else teacher_ckpt
        # for CheckWeightsHook, which knows those of the images
        self.teacher_classes = teacher_classes
        # an attribute, no submodule: nothing that walks the modules is to find it
        del self._modules['teacher']
        object.__setattr__(self, 'teacher', teacher.eval())
        initialise_from_teacher(self.distiller, teacher)
        refuse_softmax_of_labels(self.distiller, student=self.student, teacher=teacher)
        self._check_classes()
        adopt_student_settings(self.student, self.data_preprocessor, names_augmentations)
        refuse_unmixed_labels(self.distiller, self.data_preprocessor)
        self._teachers_preparation, self._order_is_checked = (told, trained), False
        used = preparation_by(self.data_preprocessor)
        warn_of_normalisation(used, told, trained)
        if asks_for_weights(architecture):
            warn_of_first_weights(used, _preparation_told(architecture))
        if trained is None:  # else it also depends on the datasets of both trainings
            self.check_order_of_channels()
        self.channels_last = channels_last and channels_last_is_sound(self.architecture)
        if channels_last and not self.channels_last:
            print_log(
                'FrozenTeacherDistill: the student has 1 x 1 convolutions that torch computes wrongly channels last on '
                'a CPU, so its images and weights lie in memory as usual.',
                logger='current',
            )
        if self.channels_last:
            teacher.to(memory_format=torch.channels_last)
            self.architecture.to(memory_format=torch.channels_last)
        self.frozen_teacher = FrozenNetwork(teacher, fold_teacher_norms, teacher_precision)
        self.torch_compile = torch_compile
        self._compiled_losses: Callable | None = None
        self._has_run = False
        # where its own loss is left out; known with the first batch
        self._student_pass = 'tensor'

    def _check_classes(self) -> None:
        student, teacher = number_of_classes(self.student), number_of_classes(self.teacher)
        if student and teacher and student != teacher:
            raise SettingError(
                f'FrozenTeacherDistill: the teacher has {teacher} classes, the student {student}. Set '
                'model.teacher.head.num_classes and model.architecture.head.num_classes to those of the dataset, and '
                'give a teacher_ckpt trained on it.'
            )

    def check_order_of_channels(self, source: str | None = None, gray: bool = False) -> None:
        """Refuse images with another order of the channels than the teacher was trained on.

        Args:
            source: The order in the dataset (:func:`icd_mmrazor.models.networks.preparation.source_of_images`); where
                it is not given, the teacher's dataset is taken to have had the same.
            gray: Whether all channels are alike.

        Raises:
            SettingError: The order is another.
        """
        self._order_is_checked = True
        told, trained = self._teachers_preparation
        compare_preparations(preparation_by(self.data_preprocessor, source), told, trained, gray)

    def loss(self, batch_inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """Run teacher and student on a batch and compute all losses.

        Args:
            batch_inputs: Images, ``B x C x H x W``, normalised.
            data_samples: Their labels, as mmpretrain packs them.

        Returns:
            The student's own losses under ``student.``, the distiller's under ``distill.``.
        """
        if isinstance(batch_inputs, Tensor) and batch_inputs.ndim == 4:
            batch_inputs = laid_out(batch_inputs, self.channels_last)
        if self._has_run:
            return self._losses_of(batch_inputs, data_samples)
        if not self._order_is_checked:  # in runs without CheckPreparationHook
            self.check_order_of_channels(*channels_of(batch_inputs, data_samples, self.data_preprocessor))
        networks = {'model.teacher': self.teacher, 'model.architecture': self.architecture, 'model': self}
        with explained_pass('FrozenTeacherDistill', batch_inputs, **networks):
            check_labels(self, data_samples)
            losses = self._losses_of(batch_inputs, data_samples)
        self._has_run = True
        return losses

    def _losses_of(self, batch_inputs: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        # first: hooks decide what of the teacher can be folded, and a compiled graph calls those that there are
        for network in ('teacher', 'student'):
            follow_modules(recorders_of(self.distiller, network))
        if not self.distillation_stopped and 'teacher' in networks_needed_by(self.distiller):
            self.frozen_teacher.prepare(batch_inputs, data_samples)
        if not self._has_run and not self.calculate_student_loss:
            self._student_pass = needed_pass(self.distiller, self.student, batch_inputs, data_samples)
        if not self.torch_compile:
            return self._losses(batch_inputs, data_samples)
        if takes_joined_labels(self):
            data_samples = as_one_sample(data_samples)
        return self._losses_compiled(batch_inputs, data_samples)

    def _losses(self, batch_inputs: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        if self.distillation_stopped:
            return self._student_losses(batch_inputs, data_samples)
        distiller, needed = self.distiller, networks_needed_by(self.distiller)
        # deliveries record from the teacher and hand to the student
        distiller.set_deliveries_override(False)
        if 'teacher' in needed:
            with distiller.teacher_recorders, distiller.deliveries:
                self.frozen_teacher(batch_inputs, data_samples)
            make_plain(recorders_of(distiller, 'teacher'))
        distiller.set_deliveries_override(True)
        losses = {}
        if getattr(distiller, 'stage', None) != 'initial':
            with distiller.student_recorders, distiller.deliveries:
                losses = self._student_losses(batch_inputs, data_samples)
        elif 'student' in needed:
            with distiller.student_recorders, distiller.deliveries:
                self.student(batch_inputs, data_samples, mode='tensor')
        make_plain(recorders_of(distiller, 'student'))
        losses.update(add_prefix(distiller.compute_distill_losses(), 'distill'))
        for network in ('teacher', 'student'):
            forget(recorders_of(distiller, network))
        return losses

    def _losses_compiled(self, batch_inputs: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        try:
            if self._compiled_losses is None:
                keep_layout_when_compiled(self.architecture)
                options = self.torch_compile if isinstance(self.torch_compile, dict) else {}
                # the last batch of an epoch may be smaller: a graph of its own, not a slower one for all sizes. The
                # function, not the method of this model, since a copy of the model takes it along
                self._compiled_losses = torch.compile(type(self)._losses, **{'dynamic': False, **options})
            return self._compiled_losses(self, batch_inputs, data_samples)
        except Exception as error:
            if not (_is_of_compiler(error) or (self._compiled_losses is None and isinstance(error, RuntimeError))):
                raise
            reason = ' '.join(str(error).split('\n')[:2])  # "backend raised:" and what it raised
            print_log(
                f'FrozenTeacherDistill: torch_compile={self.torch_compile} does not work here, so the run goes on '
                f'without it. {type(error).__name__}: {reason}',
                logger='current',
                level=logging.WARNING,
            )
            self.torch_compile = False
            return self._losses(batch_inputs, data_samples)

    def _student_losses(self, batch_inputs: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        if not self.calculate_student_loss:
            if self.distillation_stopped:
                raise SettingError(
                    'FrozenTeacherDistill: the distillation was stopped (StopDistillHook), and '
                    "calculate_student_loss=False leaves out the student's own loss: nothing is left to learn from. "
                    'Remove one of the two.'
                )
            with contextlib.nullcontext() if self.student_trainable else torch.no_grad():
                self.student(batch_inputs, data_samples, mode=self._student_pass)
            return {}
        losses = self.student(batch_inputs, data_samples, mode='loss')
        weight = 1.0 if self.distillation_stopped else getattr(self.distiller, 'student_loss_weight', 1.0)
        if weight != 1.0:
            losses = {name: weight * value if 'loss' in name else value for name, value in losses.items()}
        return add_prefix(losses, 'student')

    def train(self, mode: bool = True) -> 'FrozenTeacherDistill':
        """Set the mode of student and distiller; the teacher stays in eval mode.

        Loops call it before each epoch, after all hooks had their turn, so the teacher is looked at: what changed its
        weights counts.
        """
        super().train(mode)
        self.teacher.eval()
        if mode:
            self.frozen_teacher.look_again()
        return self

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Return how deep a parameter lies, for learning rates that fall from the head to the first layer.

        mmpretrain's ``LearningRateDecayOptimWrapperConstructor`` asks for it. A parameter of the student lies as deep
        as in the student alone; connectors and losses lie with its head, and have the full learning rate.

        Args:
            param_name: Its name in this model.

        Returns:
            Its depth, and how many there are.

        Raises:
            SettingError: The student's backbone does not say how deep its layers lie.
        """
        prefix = 'architecture.'
        of_student = param_name.startswith(prefix)
        try:
            # what is not in the backbone lies with the head
            name = param_name.removeprefix(prefix) if of_student else 'head'
            return self.architecture.get_layer_depth(name)
        except (AttributeError, NotImplementedError) as error:
            network = type(getattr(self.architecture, 'backbone', self.architecture)).__name__
            raise SettingError(
                f'FrozenTeacherDistill: the student, {network}, does not say how deep its layers lie, which learning '
                'rates that fall with the depth need. Set another optim_wrapper.constructor, or take a student that '
                "does, such as mmpretrain's VisionTransformer, SwinTransformer, BEiTViT or ConvNeXt."
            ) from error

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Move or cast the teacher with the rest (``to``, ``cuda``, ``double``, ... all come through here)."""
        self.frozen_teacher.reset()
        self.teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)


def _preparation_told(network: dict | nn.Module) -> Preparation | None:
    """Return how a network's config says that images are prepared for it, if it says so."""
    if not isinstance(network, nn.Module):
        return preparation_by(network['data_preprocessor']) if network.get('data_preprocessor') else None
    preprocessor = getattr(network, 'data_preprocessor', None)
    told = preparation_by(preprocessor) if isinstance(preprocessor, nn.Module) else None
    # the default of a network that was built without one
    return told if told and (told.normalisation or told.turned) else None


def _check_compile_options(options: bool | dict) -> None:
    offered = set(inspect.signature(torch.compile).parameters) - {'model'}
    if not isinstance(options, bool | dict) or (isinstance(options, dict) and options.keys() - offered):
        raise SettingError(
            f'FrozenTeacherDistill: torch_compile={options!r} must be True, False or options of torch.compile, a '
            f'dictionary of {", ".join(sorted(offered))}: torch_compile=dict(mode="max-autotune").'
        )


def _is_of_compiler(error: Exception) -> bool:
    # by name: the modules are private
    return any(cls.__module__.startswith(('torch._dynamo', 'torch._inductor')) for cls in type(error).__mro__)
