"""Contrastive representation distillation (CRD)."""

import math
from typing import Any

import torch
import torch.distributed
from mmengine.dist import broadcast, get_world_size
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.datasets.samples import sample_indices
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.models.losses.base import MemoryLoss
from icd_mmrazor.models.losses.functional import full_precision, unit_vectors
from icd_mmrazor.models.losses.gather import gather_rows, weight_of_image

EPS = 1e-7
# the lowest that the paper tries
MIN_TEMPERATURE = 0.02


@MODELS.register_module()
class ContrastiveRepresentationLoss(MemoryLoss):
    """Contrastive representation distillation (CRD, Tian et al., ICLR 2020, arXiv 1910.10699), with its memories.

    One memory holds the student's embedding of each of the ``N`` training images, another the teacher's. For each image
    of a batch, ``k = num_negatives`` images of other classes are drawn. With ``u`` its normalised embedding from one
    network, ``m_j`` the other network's memory of image ``j``, and ``p_j = exp(<u, m_j> / temperature) / Z``, a
    noise-contrastive estimate tells the image's own memory ``m_0`` from those of the negatives::

        - log(p_0 / (p_0 + k/N + eps)) - sum_j log((k/N) / (p_j + k/N + eps))

    The loss is the mean over the batch of the sum over both directions: student against the teacher's memory, and
    teacher against the student's. ``Z`` is one constant per direction, set in the first batch to ``N`` times the mean
    of the exponentials. After each batch the memories of its images move:
    ``m <- norm(momentum * m + (1 - momentum) * u)``.

    With several processes each draws the negatives of its own images; memories and ``Z`` follow the images of all,
    so they are the same everywhere, and after DDP's averaging the gradients equal those of one process with the
    whole batch. Memories and ``Z`` are saved in checkpoints and resumed. mmrazor's ``CRDLoss`` takes the negatives from
    a data pipeline of mmcls 1.x instead, ignores its ``loss_weight``, and keeps separate memories in each process.

    Args:
        num_negatives: Number of images of other classes that each image is compared with; they repeat only if there are
            fewer of them.
        temperature: Divides the similarities, ``>= 0.02``: below, their exponentials leave float32.
        momentum: Share of a memory that stays when its image is seen, ``0 <= momentum < 1``.
        embed_dims: Width of the embeddings.
        num_samples: Number of training images; by default from :meth:`set_dataset`.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        default_hooks=dict(sample_memory=dict(type='SampleMemoryHook'))  # in our default runtime
        distiller=dict(
            type='FeatureDistiller',
            losses=dict(crd=dict(
                loss=dict(type='ContrastiveRepresentationLoss', loss_weight=0.8),
                features='pooled',
                student_connector=dict(type='LinearProjection'),
                teacher_connector=dict(type='LinearProjection'))))
    """

    # negatives are images of other classes, and a mixed image is not in the memories
    reads_labels = True

    student_memory: Tensor
    teacher_memory: Tensor
    normalisers: Tensor
    labels: Tensor

    def __init__(
        self,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        embed_dims: int = 128,
        num_samples: int | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(embed_dims, loss_weight)
        self.num_negatives = checks.positive_int(self, 'num_negatives', num_negatives)
        self.temperature = checks.positive(self, 'temperature', temperature)
        if temperature < MIN_TEMPERATURE:
            raise SettingError(
                f'{self._name}: temperature={temperature} must be {MIN_TEMPERATURE} or more, so that '
                'exp(1 / temperature) stays in float32. Published is 0.07.'
            )
        self.momentum = checks.not_negative(self, 'momentum', momentum)
        if momentum >= 1:
            raise SettingError(f'{self._name}: momentum={momentum} must be less than 1. Published is 0.5.')
        self.register_buffer('student_memory', torch.empty(0, embed_dims))
        self.register_buffer('teacher_memory', torch.empty(0, embed_dims))
        # Z of student against the teacher's memory, and of teacher against the student's; 0: not set yet
        self.register_buffer('normalisers', torch.zeros(2))
        self.register_buffer('labels', torch.empty(0, dtype=torch.int64), persistent=False)
        if num_samples is not None:
            self._allocate(checks.positive_int(self, 'num_samples', num_samples))

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def num_samples(self) -> int:
        """Number of images in the memories; 0 while it is unknown."""
        return len(self.student_memory)

    def _allocate(self, num_samples: int) -> None:
        bound = math.sqrt(3 / self.embed_dims)
        for name in ('student_memory', 'teacher_memory'):
            memory = getattr(self, name).new_empty(num_samples, self.embed_dims)
            setattr(self, name, memory.uniform_(-bound, bound))

    def set_dataset(self, labels: Tensor) -> None:
        """Create the memories for a training set, unless they exist; ``SampleMemoryHook`` calls it.

        Args:
            labels: Class of each image, integers, ``N``; the position is the image's ``sample_idx``.

        Raises:
            SettingError: ``num_samples`` is another number.
            DatasetError: All images are of one class: there are no negatives.
        """
        if self.num_samples not in (0, len(labels)):
            raise SettingError(
                f'{self._name}: num_samples={self.num_samples}, but the training set has {len(labels)} images. '
                'Remove the setting: it is found.'
            )
        class_sizes = labels.unique(return_counts=True)[1]
        if len(class_sizes) < 2:
            raise DatasetError(
                f'{self._name} compares images of different classes, but all {len(labels)} training images have one '
                'label. Use a training set with at least two classes.'
            )
        if not self.num_samples:
            self._allocate(len(labels))
            for memory in (self.student_memory, self.teacher_memory):
                broadcast(memory)  # the seeds of the processes differ
        self.labels = labels.to(self.student_memory.device, torch.int64)
        self.fewest_others = len(labels) - int(class_sizes.max())
        self.most_others = len(labels) - int(class_sizes.min())

    def draw_negatives(self, index: Tensor) -> Tensor:
        """Draw images of other classes, uniformly and independently for each image of a batch.

        Args:
            index: ``sample_idx`` of the images, ``B``.

        Returns:
            The indices of their negatives, ``B x num_negatives``.
        """
        others = self.labels != self.labels[index, None]
        if self.num_negatives > self.fewest_others:
            repeated = torch.multinomial(others.float(), self.num_negatives, replacement=True)
            if self.num_negatives > self.most_others:
                return repeated
        # the largest of random keys are a uniform draw without repeats, three times as fast as torch.multinomial
        keys = torch.rand(others.shape, device=others.device).masked_fill_(~others, -1.0)
        drawn = keys.topk(self.num_negatives, sorted=False).indices
        if self.num_negatives <= self.fewest_others:
            return drawn
        return torch.where(others.sum(dim=1, keepdim=True) >= self.num_negatives, drawn, repeated)

    def forward(
        self, s_feature: Tensor, t_feature: Tensor, data_samples: list[DataSample], negatives: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch, then update the memories.

        Args:
            s_feature: Embeddings of the student's features, ``B x embed_dims``; need not be normalised.
            t_feature: Embeddings of the teacher's features of the same images.
            data_samples: Data samples of the images, each with its ``sample_idx``; or one for all, with a list of them.
            negatives: Indices of the negatives of each image, ``B x k``; drawn by default.

        Raises:
            SettingError: The shapes do not fit, a ``sample_idx`` is missing or out of range, or the training set is
                unknown.
        """
        self._check(s_feature, t_feature)
        if not self.num_samples or (negatives is None and not len(self.labels)):
            raise SettingError(
                f'{self._name} does not know the training set that it draws negatives from. Add SampleMemoryHook: '
                "default_hooks=dict(sample_memory=dict(type='SampleMemoryHook')); without a runner call set_dataset()."
            )
        index = self._indices(data_samples, s_feature)
        negatives = self.draw_negatives(index) if negatives is None else negatives
        columns = torch.cat([index[:, None], negatives], dim=1)
        noise = negatives.shape[1] / self.num_samples
        with full_precision(s_feature, t_feature) as features:
            student, teacher = (unit_vectors(feature) for feature in features)
            everyone, _ = gather_rows(index, student.detach(), teacher.detach())
            scale = weight_of_image(len(everyone[0]))
            compared = ((student, self.teacher_memory), (teacher, self.student_memory))
            scores = torch.stack([self._scores(embeddings, memory, columns) for embeddings, memory in compared])
            p = scores / self._normalisers(scores.detach(), scale)[:, None, None]
            loss = scale * self.compare_probabilities(p, noise)
            self._update(*everyone)
            return self.loss_weight * loss

    def compare_probabilities(self, p: Tensor, noise: float) -> Tensor:
        """Compute the loss, summed over the images.

        Args:
            p: The ``p_j`` of the class's docstring, ``2 x B x (1 + k)``: student against the teacher's memory, and
                teacher against the student's; of the image itself, then of its negatives.
            noise: ``k / N``.
        """
        # the logarithms of the class's docstring, without their cancellation in float32
        positive = torch.log1p((noise + EPS) / p[:, :, 0])
        negative = torch.log1p((p[:, :, 1:] + EPS) / noise)
        return positive.sum() + negative.sum()

    @torch.compiler.disable  # it reads Python numbers, so it would be compiled again for each batch
    def _indices(self, data_samples: list[DataSample], features: Tensor) -> Tensor:
        positions = sample_indices(data_samples) if isinstance(data_samples, list | tuple) else []
        indices = [position for position in positions if position is not None]
        wrap = "Wrap the whole training set: train_dataloader.dataset=dict(type='IndexedDataset', dataset=...)."
        if len(indices) != len(positions):
            raise SettingError(f'{self._name}: the data samples carry no sample_idx. {wrap}')
        if len(indices) != len(features):
            raise SettingError(
                f'{self._name}: data_samples must be the data samples of these {len(features)} images. Record the '
                "inputs of the whole student: data_samples=dict(type='ModuleInputs', source=''), with data_idx=1."
            )
        if not 0 <= min(indices) <= max(indices) < self.num_samples:
            raise SettingError(
                f'{self._name}: sample_idx from {min(indices)} to {max(indices)}, but the training set has '
                f'{self.num_samples} images. {wrap}'
            )
        index = torch.tensor(indices)
        # with pinned memory the host does not wait for the GPU
        return (index.pin_memory() if features.is_cuda else index).to(features.device, non_blocking=True)

    def _scores(self, embeddings: Tensor, memory: Tensor, columns: Tensor) -> Tensor:
        # Similarities with the whole memory: twelve times as fast as collecting B x (k + 1) rows (CPU, B = 64,
        # N = 50000). A copy, because the backward pass needs the memory as it was before the update.
        similarities = embeddings @ memory.to(embeddings.dtype, copy=True).T
        return (similarities.gather(1, columns) / self.temperature).exp()

    @torch.no_grad()
    def _normalisers(self, scores: Tensor, scale: float) -> Tensor:
        """Set those that are not set yet, without asking the device."""
        means = scale * scores.mean(dim=2).sum(dim=1)
        if get_world_size() > 1:
            torch.distributed.all_reduce(means)
            means /= get_world_size()
        normalisers = torch.where(self.normalisers > 0, self.normalisers.to(means.dtype), self.num_samples * means)
        self.normalisers.copy_(normalisers)
        return normalisers

    @torch.no_grad()
    def _update(self, index: Tensor, students: Tensor, teachers: Tensor) -> None:
        # if an image is in the batch twice, its last embedding counts, on every process and device
        last = ((index == index[:, None]) * torch.arange(len(index), device=index.device)).amax(dim=1)
        for memory, embeddings in ((self.student_memory, students), (self.teacher_memory, teachers)):
            moved = torch.lerp(embeddings[last], memory[index].to(embeddings.dtype), self.momentum)
            memory.index_copy_(0, index, unit_vectors(moved).to(memory.dtype))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Load the memories of a checkpoint even if the training set is unknown, as in a test run."""
        stored = len(state_dict.get(f'{prefix}student_memory', ()))
        if stored and not self.num_samples:
            self._allocate(stored)
        elif stored and stored != self.num_samples:
            raise CheckpointError(
                f'{self._name}: the checkpoint has a memory of {stored} images, the training set has '
                f'{self.num_samples}. Resume with the training set of that run, or load only its student (the weights '
                'under architecture.).'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
