"""Contrastive representation distillation."""

import math
from typing import Any, ClassVar

import torch
import torch.distributed
from mmengine.dist import broadcast, get_world_size
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.datasets.samples import positions_of
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.models.losses.base import full_precision
from icd_mmrazor.models.losses.memories import MemoryLoss, of_all_ranks
from icd_mmrazor.models.losses.unit_vectors import unit_vectors

NAME = 'ContrastiveRepresentationLoss'
EPS = 1e-7
# the lowest that the paper tries
MIN_TEMPERATURE = 0.02


@MODELS.register_module()
class ContrastiveRepresentationLoss(MemoryLoss):
    """Contrastive representation distillation (CRD, Tian et al., ICLR 2020, arXiv 1910.10699), memories included.

    A memory holds an embedding of each of the ``N`` training images from the student, another from the teacher. Of
    an image, ``k = num_negatives`` images of other classes are drawn. With ``u`` its normalised embedding from one
    network, ``m_j`` the other network's memory of image ``j``, and ``p_j = exp(<u, m_j> / temperature) / Z``, a
    noise-contrastive estimate tells the image's own memory ``m_0`` from the negatives'::

        - log(p_0 / (p_0 + k/N + eps)) - sum_j log((k/N) / (p_j + k/N + eps))

    The loss is the sum over both directions, student against teacher's memory and teacher against student's, in the
    mean over the batch. ``Z`` is one constant a direction, set in the first batch to ``N`` times the mean of the
    exponentials. After each batch the memories of its images move: ``m <- norm(momentum * m + (1 - momentum) * u)``.

    The similarities are those of the batch with the whole memory, from which the drawn ones are taken: twelve times
    as fast as collecting ``B x (k + 1)`` rows of the memory (measured on a CPU with ``B = 64``, ``N = 50000``), and
    never larger while ``N`` is less than ``k * embed_dims``.

    With several processes each draws the negatives of its own images; memories and ``Z`` follow the images of all,
    so they are the same everywhere, and after DDP's averaging the gradients equal those of one process with the
    whole batch. The loss is computed in float32 at least, also under autocast. Memories and ``Z`` are saved with a
    checkpoint and resumed.

    mmrazor's own ``CRDLoss`` has the same formula. It takes the negatives from a data pipeline that needs mmcls 1.x,
    which mmpretrain replaced; it ignores its ``loss_weight``, and each process has memories of its own.

    Args:
        num_negatives: How many images of other classes each image is compared with: without repeats, or, where there
            are fewer of them, with repeats.
        temperature: Divides the similarities, ``>= 0.02``: below, their exponentials leave float32.
        momentum: How much of a memory stays when its image is seen, ``0 <= momentum < 1``.
        embed_dims: Width of the embeddings.
        num_samples: Number of training images, if known here; otherwise from :meth:`set_dataset`.
        loss_weight: Weight of the whole.

    Raises:
        SettingError: A setting is out of range.

    Config example, in mmrazor's plain ``ConfigurableDistiller``::

        default_hooks=dict(sample_memory=dict(type='SampleMemoryHook'))  # our default runtime has it
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(
                feature=dict(type='ModuleInputs', source='head.fc'),
                data_samples=dict(type='ModuleInputs', source='')),
            teacher_recorders=dict(feature=dict(type='ModuleInputs', source='head.fc')),
            connectors=dict(
                student=dict(type='LinearProjection', in_features=64),
                teacher=dict(type='LinearProjection', in_features=256)),
            distill_losses=dict(loss_crd=dict(type='ContrastiveRepresentationLoss', loss_weight=0.8)),
            loss_forward_mappings=dict(loss_crd=dict(
                s_feature=dict(recorder='feature', from_student=True, data_idx=0, connector='student'),
                t_feature=dict(recorder='feature', from_student=False, data_idx=0, connector='teacher'),
                data_samples=dict(recorder='data_samples', from_student=True, data_idx=1))))
    """

    # negatives are images of other classes, and a mixed image is none of those in the memories
    reads_labels: ClassVar[bool] = True

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
        self.num_negatives = self._count('num_negatives', num_negatives)
        self.temperature = self._positive('temperature', temperature)
        if temperature < MIN_TEMPERATURE:
            raise SettingError(
                f'{NAME}: temperature={temperature} must be {MIN_TEMPERATURE} or more, or exp(1 / temperature) times '
                'the number of images is no number of float32; published is 0.07.'
            )
        self.momentum = self._finite('momentum', momentum)
        if not 0 <= momentum < 1:
            raise SettingError(f'{NAME}: momentum={momentum} must be 0 or more and less than 1; published is 0.5.')
        self.register_buffer('student_memory', torch.empty(0, embed_dims))
        self.register_buffer('teacher_memory', torch.empty(0, embed_dims))
        # Z of student against teacher's memory, and of teacher against student's; 0: not set yet
        self.register_buffer('normalisers', torch.zeros(2))
        self.register_buffer('labels', torch.empty(0, dtype=torch.int64), persistent=False)
        if num_samples is not None:
            self._allocate(self._count('num_samples', num_samples))

    @property
    def num_samples(self) -> int:
        """Number of images in the memories; 0 while it is not known."""
        return len(self.student_memory)

    def _allocate(self, num_samples: int) -> None:
        bound = math.sqrt(3 / self.embed_dims)
        for name in ('student_memory', 'teacher_memory'):
            memory = getattr(self, name).new_empty(num_samples, self.embed_dims)
            setattr(self, name, memory.uniform_(-bound, bound))

    def set_dataset(self, labels: Tensor) -> None:
        """Make the memories for a training set, unless they are there, and learn which images are negatives.

        :class:`SampleMemoryHook` calls it at the start of a run.

        Args:
            labels: Class of each image, integers, ``N``; the position is the image's ``sample_idx``.

        Raises:
            SettingError: ``num_samples`` is another number.
            DatasetError: All images are of one class: there are no negatives.
        """
        if self.num_samples not in (0, len(labels)):
            raise SettingError(
                f'{NAME}: num_samples={self.num_samples}, but the training set has {len(labels)} images. '
                'Remove the setting: it is found.'
            )
        class_sizes = labels.unique(return_counts=True)[1]
        if len(class_sizes) < 2:
            raise DatasetError(
                f'{NAME} compares an image with images of other classes, but all {len(labels)} images of the '
                'training set have one label. Give a training set with at least two classes.'
            )
        if not self.num_samples:
            self._allocate(len(labels))
            for memory in (self.student_memory, self.teacher_memory):
                broadcast(memory)  # processes with seeds of their own
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
        # The largest of random keys are a uniform draw without repeats. torch.multinomial does the same, but sorts:
        # three times as slow on a CPU. A loop of randperm is as fast there, but a loop of kernels on a GPU.
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
            t_feature: Embeddings of the teacher's features of the same images, ``B x embed_dims``.
            data_samples: Data samples of the images, each with its ``sample_idx``; or one for all, with a list of them.
            negatives: Indices of the negatives of each image, ``B x k``; drawn if not given.

        Returns:
            The loss, a scalar.

        Raises:
            SettingError: The shapes do not fit, the data samples carry no ``sample_idx``, or one beyond the memory, or
                the training set is not known.
        """
        self._check(s_feature, t_feature)
        if not self.num_samples or (negatives is None and not len(self.labels)):
            raise SettingError(
                f'{NAME} does not know the training set, from which it draws negatives. Add SampleMemoryHook: '
                "default_hooks=dict(sample_memory=dict(type='SampleMemoryHook')); without a runner call "
                'set_dataset(labels).'
            )
        index = self._indices(data_samples, s_feature)
        if negatives is None:
            negatives = self.draw_negatives(index)
        with full_precision(s_feature, t_feature) as features:
            student, teacher = (unit_vectors(feature) for feature in features)
            everyone = of_all_ranks(index, student, teacher)
            # DDP takes the mean over ranks; the mean over images is wanted, however many a rank has
            scale = get_world_size() / len(everyone[0])
            columns = torch.cat([index[:, None], negatives], dim=1)
            scores = torch.stack(
                [
                    self._scores(student, self.teacher_memory, columns),
                    self._scores(teacher, self.student_memory, columns),
                ]
            )
            p = scores / self._normalisers(scores.detach(), scale)[:, None, None]
            noise = negatives.shape[1] / self.num_samples
            # the logarithms of the class's docstring, without their cancellation in float32
            positive = torch.log1p((noise + EPS) / p[:, :, 0])
            negative = torch.log1p((p[:, :, 1:] + EPS) / noise)
            loss = scale * (positive.sum() + negative.sum())
            self._update(*everyone)
            return self.loss_weight * loss

    @torch.compiler.disable  # it would be compiled anew for each batch, since it reads Python numbers
    def _indices(self, data_samples: list[DataSample], features: Tensor) -> Tensor:
        indices = positions_of(data_samples) if isinstance(data_samples, list | tuple) else []
        if None in indices:
            raise SettingError(
                f'{NAME}: the data samples carry no sample_idx. Wrap the training set: '
                "train_dataloader.dataset=dict(type='IndexedDataset', dataset=...)."
            )
        if len(indices) != len(features):
            raise SettingError(
                f'{NAME}: data_samples must be the data samples of these {len(features)} images. Record the inputs of '
                "the whole student: data_samples=dict(type='ModuleInputs', source=''), with data_idx=1."
            )
        if not 0 <= min(indices) <= max(indices) < self.num_samples:
            raise SettingError(
                f'{NAME}: sample_idx from {min(indices)} to {max(indices)}, but the training set has '
                f'{self.num_samples} images. Wrap the whole training set, not its parts: '
                "train_dataloader.dataset=dict(type='IndexedDataset', dataset=...)."
            )
        index = torch.tensor(indices)
        # from pinned memory the host need not wait for the GPU
        return (index.pin_memory() if features.is_cuda else index).to(features.device, non_blocking=True)

    def _scores(self, embeddings: Tensor, memory: Tensor, columns: Tensor) -> Tensor:
        # a copy: the backward pass needs the memory as it was before the update
        similarities = embeddings @ memory.to(embeddings.dtype, copy=True).T
        return (similarities.gather(1, columns) / self.temperature).exp()

    @torch.no_grad()
    def _normalisers(self, scores: Tensor, scale: float) -> Tensor:
        """Set what is not set yet, without asking the device whether it is."""
        means = scale * scores.mean(dim=2).sum(dim=1)
        if get_world_size() > 1:
            torch.distributed.all_reduce(means)
            means /= get_world_size()
        normalisers = torch.where(self.normalisers > 0, self.normalisers.to(means.dtype), self.num_samples * means)
        self.normalisers.copy_(normalisers)
        return normalisers

    @torch.no_grad()
    def _update(self, index: Tensor, students: Tensor, teachers: Tensor) -> None:
        # of an image that is in the batch twice the last embedding counts, on every process and device
        last = ((index == index[:, None]) * torch.arange(len(index), device=index.device)).amax(dim=1)
        for memory, embeddings in ((self.student_memory, students), (self.teacher_memory, teachers)):
            moved = torch.lerp(embeddings[last], memory[index].to(embeddings.dtype), self.momentum)
            memory.index_copy_(0, index, unit_vectors(moved).to(memory.dtype))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Take the memories of a checkpoint also where the training set is not known, as in a test run."""
        stored = state_dict.get(f'{prefix}student_memory')
        if stored is not None and not self.num_samples:
            self._allocate(len(stored))
        elif stored is not None and len(stored) != self.num_samples:
            raise CheckpointError(
                f'{NAME}: the checkpoint has a memory of {len(stored)} images, the training set has '
                f'{self.num_samples}. Resume with the training set of that run, or load its student alone '
                '(the weights under architecture.).'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Show the settings in the printed model and in the report at the start of a run."""
        return (
            f'num_negatives={self.num_negatives}, temperature={self.temperature}, momentum={self.momentum}, '
            f'embed_dims={self.embed_dims}, num_samples={self.num_samples or None}, loss_weight={self.loss_weight}'
        )
