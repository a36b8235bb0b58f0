"""Distillation from one of several teachers for each image, chosen by its difficulty."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.compat.layout import laid_out
from icd_mmrazor.datasets.samples import sample_indices
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.models.algorithms.frozen_teacher_distill import FrozenTeacherDistill
from icd_mmrazor.models.algorithms.records import recorders_of
from icd_mmrazor.models.networks.combinations import ExpertLogits

NAME = 'ExpertSelectionDistill'
LOSS, CONFIDENCE = 'loss', 'confidence'


@MODELS.register_module()
class ExpertSelectionDistill(FrozenTeacherDistill):
    """Curriculum expert selection (CES-KD, Amara et al., arXiv 2209.07606): one teacher for each image.

    Easy images are learned from a small teacher, hard ones from a large one. The teachers, called experts, are given in
    rising capacity; the last one is the teacher itself, the others are its teaching assistants. The training images are
    ranked by their difficulty and divided into as many equal parts as there are experts, the easiest for the first. In
    each batch, an expert runs on its own images alone. The logits of all images are put together into those of the
    teacher, so that any loss between logits can be used.

    This is our reading of the abstract; the paper's formulas were not at hand. The abstract fixes that a single teacher
    is selected for each image, by the difficulty in classifying it, easy images for teachers of lower capacity. The
    measure of difficulty, equal parts and ``ramp_epochs`` are ours.

    ``DifficultyHook`` measures the difficulty before the training. Difficulties and experts of all images are stored in
    checkpoints, as ``difficulty`` and ``experts``, and a resumed run uses the same. A mixed image (Mixup, CutMix) has
    the expert of the first of the two. Images outside of the training set go through the last expert.

    Args:
        distiller: Config of the distiller, which compares only ``logits``.
        teacher, teacher_ckpt: Not to be set.
        teachers: The experts in rising capacity, two or more, as for ``FrozenTeacherDistill``, without ``weight``.
        scorer: Index of the expert that measures the difficulty; the last one by default. A teacher that fits all of
            its training images ranks them by little more than noise, and a weaker scorer may be better.
        score: What the difficulty is: ``'loss'``, the cross-entropy of the scorer, which reads labels;
            ``'confidence'``, by the largest probability of the scorer, the smaller the harder.
        ramp_epochs: Number of epochs in which the larger experts are admitted one after the other: in epoch e, counted
            from 0, an image whose expert is k learns from ``min(k, e K // ramp_epochs)``. None: at once.
        **kwargs: Other arguments of ``FrozenTeacherDistill``, without ``teacher_combination`` and ``teacher_cache``.

    Raises:
        SettingError: There are fewer than two experts, there is no such scorer, the distiller compares features, an
            argument is out of range or does not go together with experts, or nothing has measured the difficulty.
        CheckpointError: A checkpoint has the difficulties of another number of images.

    Config example::

        model = dict(
            _scope_='mmrazor',
            type='ExpertSelectionDistill',
            architecture='configs/vanilla/res20_cifar100.py',  # the student
            teachers=[
                dict(teacher='configs/vanilla/res44_cifar100.py', teacher_ckpt='work_dirs/res44.pth'),
                dict(teacher='configs/vanilla/res56_cifar100.py', teacher_ckpt='work_dirs/res56.pth')],
            distiller=dict(type='FeatureDistiller', losses=dict(
                kd=dict(loss=dict(type='KLDivergence', tau=4.0, loss_weight=0.9), features='logits'))))
        default_hooks = dict(difficulty=dict(type='DifficultyHook'))
    """

    # of the training images, besides what the losses need: the labels of mixed images are not read
    needs: ClassVar[tuple[str, ...]] = ('positions', 'labels', 'scores')
    difficulty: Tensor
    experts: Tensor

    def __init__(
        self,
        distiller: dict,
        teacher: nn.Module | dict | str | None = None,
        teacher_ckpt: str | None = None,
        *,
        teachers: Sequence[dict] | None = None,
        scorer: int = -1,
        score: str = LOSS,
        ramp_epochs: int | None = None,
        **kwargs: Any,
    ) -> None:
        _check_experts(teachers)
        _refuse(kwargs)
        if type(scorer) is not int or not -len(teachers) <= scorer < len(teachers):
            raise SettingError(
                f'{NAME}: scorer={scorer!r} must be the index of one of {len(teachers)} teachers, from 0 to '
                f'{len(teachers) - 1}, or -1 for the last one.'
            )
        self.scorer = scorer % len(teachers)
        self.score = checks.one_of(NAME, 'score', score, (LOSS, CONFIDENCE))
        self.ramp_epochs = None if ramp_epochs is None else checks.positive_int(NAME, 'ramp_epochs', ramp_epochs)
        kwargs['teacher_combination'] = dict(type=ExpertLogits)
        super().__init__(distiller, teacher, teacher_ckpt, teachers=teachers, **kwargs)
        self._check_recorders()
        self._warn_of_order()
        # sized once the training images, or those of a checkpoint, are known
        self.register_buffer('difficulty', torch.empty(0, dtype=torch.float64))
        self.register_buffer('experts', torch.empty(0, dtype=torch.int64))
        # those of the current epoch, on the CPU; set_epoch sets them
        self._current: Tensor | None = None

    def _check_recorders(self) -> None:
        """Refuse what is recorded elsewhere than where the logits of all images are put together."""
        for recorder in recorders_of(self.distiller, 'teacher'):
            if recorder.source != 'head':
                raise SettingError(
                    f'{NAME}: the distiller compares {recorder.source or "the output"} of the teachers, and each of '
                    "them runs on its own images alone. Compare 'logits', or use FrozenTeacherDistill."
                )

    def _warn_of_order(self) -> None:
        sizes = [sum(p.numel() for p in member.parameters()) for member in self.teacher.members]
        if sizes != sorted(sizes):
            print_log(
                f'{NAME}: teachers have {", ".join(f"{size:,}" for size in sizes)} parameters. They should be in '
                'rising capacity: the first one teaches the easiest images.',
                logger='current',
                level=logging.WARNING,
            )

    def set_images(self, number: int) -> None:
        """Make room for the difficulties of so many training images, unknown so far.

        Raises:
            DatasetError: There are fewer images than experts.
        """
        if number < len(self.teacher.members):
            raise DatasetError(
                f'{NAME}: {len(self.teacher.members)} teachers share {number} training images. Give fewer teachers or '
                'more images.'
            )
        self.difficulty = self.difficulty.new_full((number,), torch.nan)
        self.experts = self.experts.new_full((number,), -1)
        self._current = None

    def set_difficulty(self, difficulty: Tensor) -> None:
        """Divide the training images among the experts.

        Args:
            difficulty: The difficulty of each image by its ``sample_idx``, ``N``.

        Raises:
            SettingError: A difficulty is not finite.
        """
        if bad := int((~difficulty.isfinite()).sum()):
            raise SettingError(
                f'{NAME}: teachers[{self.scorer}] has no finite score for {bad:,} of {len(difficulty):,} training '
                'images. Check its weights and teacher_preprocessor, or set another model.scorer.'
            )
        self.difficulty.copy_(difficulty)
        self.experts.copy_(strata(difficulty, len(self.teacher.members)))

    @property
    def knows_difficulty(self) -> bool:
        """Whether each training image has an expert."""
        return len(self.experts) > 0 and bool((self.experts >= 0).all())

    def set_epoch(self, epoch: int) -> None:
        """Let the images of an epoch, counted from 0, have their experts."""
        last = number = len(self.teacher.members)
        if self.ramp_epochs is not None:
            last = epoch * number // self.ramp_epochs
        self._current = self.experts.clamp(max=min(last, number - 1)).cpu()

    def run_teacher(self, batch_inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """Run each expert on its images of a batch, and put their logits together, ``B x C``.

        Other modes than ``'tensor'`` predict images outside of the training set, by the last expert.

        Raises:
            SettingError: Nothing has measured the difficulty.
            DatasetError: The images have no positions in the training set.
        """
        if mode != 'tensor':
            return self.teacher.run_member(len(self.teacher.members) - 1, batch_inputs, data_samples, mode)
        experts = self._experts_of(data_samples)
        order = torch.argsort(experts, stable=True)
        counts = torch.bincount(experts, minlength=len(self.teacher.members)).tolist()
        # with pinned memory the host does not wait for the GPU
        order = (order.pin_memory() if batch_inputs.is_cuda else order).to(batch_inputs.device, non_blocking=True)
        outputs = []
        for i, rows in enumerate(order.split(counts)):
            if len(rows):
                images = batch_inputs.index_select(0, rows)
                images = laid_out(images, self.channels_last) if images.ndim == 4 else images
                outputs.append(self.teacher.run_member(i, images))
        logits = torch.cat(outputs)
        # what records the logits of the teacher records this
        return self.teacher.head([torch.empty_like(logits).index_copy_(0, order, logits)])

    def _experts_of(self, data_samples: list | None) -> Tensor:
        if self._current is None:
            raise SettingError(
                f'{NAME}: nothing has measured the difficulty of the training images. Add '
                "default_hooks.difficulty=dict(type='DifficultyHook') to the config."
            )
        positions = sample_indices(data_samples or [])
        if not positions or None in positions or max(positions) >= len(self._current):
            raise DatasetError(
                f'{NAME}: the images of a batch have no positions among the {len(self._current):,} training images. '
                "Wrap the training set: train_dataloader.dataset=dict(type='IndexedDataset', dataset=...)."
            )
        return self._current[positions]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Load the difficulties of a checkpoint even if the training set is unknown, as in a test run."""
        stored, own = len(state_dict.get(f'{prefix}difficulty', ())), len(self.difficulty)
        if stored and not own:
            self.set_images(stored)
        elif stored and stored != own:
            raise CheckpointError(
                f'{NAME}: the checkpoint has the difficulties of {stored} images, and the training set has {own}. '
                'Resume with the training set of that run, or load only its student (the weights under architecture.).'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def strata(difficulty: Tensor, number: int) -> Tensor:
    """Divide images into parts of equal size by their difficulty.

    Args:
        difficulty: Of each image, ``N``.
        number: Number of parts, K.

    Returns:
        The part of each image, ``floor(rank K / N)``, from 0 for the easiest; among equals, earlier ones count as
        easier.
    """
    ranks = torch.empty(len(difficulty), dtype=torch.int64, device=difficulty.device)
    ranks[torch.argsort(difficulty, stable=True)] = torch.arange(len(difficulty), device=difficulty.device)
    return ranks * number // len(difficulty)


def _check_experts(teachers: Any) -> None:
    if not isinstance(teachers, list | tuple) or len(teachers) < 2:
        raise SettingError(
            f'{NAME}: teachers={teachers!r:.100} must be a list of two or more dict(teacher=..., teacher_ckpt=...) in '
            'rising capacity, the last one the teacher. For a single one use FrozenTeacherDistill.'
        )
    for i, each in enumerate(teachers):
        if isinstance(each, dict) and 'weight' in each:
            raise SettingError(
                f'{NAME}: teachers[{i}].weight={each["weight"]!r} has no effect, since each image has one teacher. '
                'Remove it.'
            )


def _refuse(settings: dict[str, Any]) -> None:
    """Refuse settings that do not go together with a single teacher for each image."""
    reasons = {
        'teacher_combination': 'each image has one teacher, so no logits are combined',
        'teacher_cache': 'it stores the outputs of all teachers for each image, and here each image has one',
        'torch_compile': 'how many images of a batch a teacher has depends on the data, which no graph can contain',
    }
    for name, reason in reasons.items():
        if settings.get(name):
            raise SettingError(f'{NAME}: model.{name} is set, but {reason}. Remove it, or use FrozenTeacherDistill.')
