"""A training loop as research scripts have it: the measure that tools/benchmarks/step_time.py compares with.

Eager, in float32, one image transformed at a time, teacher and student forward in full, the accuracy and the loss read
back in every iteration. Written from the formulas; nothing here is shared with what it is compared with but the
networks, which are built from the same configs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

# methods that are written out here
PLAIN_METHODS = ('icd', 'kd')


class ArrayImages(Dataset):
    """Images and labels in arrays, an image transformed when it is asked for.

    Args:
        images: uint8, ``N x H x W x 3``.
        labels: ``N``.
        transform: From a PIL image to a tensor.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class PlainICD(nn.Module):
    """ICD from its formula (arXiv 2407.11802), with the two embeddings.

    Args:
        student_width: Width of the student's feature.
        teacher_width: Width of the teacher's feature.
        embed_dims: Width of the embeddings.
    """

    def __init__(self, student_width: int, teacher_width: int, embed_dims: int = 128) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student_width, embed_dims)
        self.embed_teacher = nn.Linear(teacher_width, embed_dims)
        self.log_tau = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        u = F.normalize(self.embed_student(student), dim=1)
        v = F.normalize(self.embed_teacher(teacher), dim=1)
        similarity = torch.exp(self.log_tau).clamp(max=10) * torch.mm(u, v.t()) + self.bias
        contrastive = F.cross_entropy(similarity, torch.arange(len(u), device=u.device))
        invariance = F.kl_div(F.log_softmax(similarity, 1), F.softmax(similarity.t(), 1), reduction='batchmean')
        return contrastive + 0.5 * invariance


def plain_kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Compute KD from its formula: the KL divergence of softened logits, times the squared temperature."""
    log_p, q = F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return F.kl_div(log_p, q, reduction='batchmean') * temperature**2


def feature_and_logits(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run an ``ImageClassifier``; return the pooled feature and the logits."""
    feature = network.head.pre_logits(network.extract_feat(images))
    return feature, network.head.fc(feature)


def transforms_of(pipeline: Sequence[dict], mean: Sequence[float], std: Sequence[float]) -> transforms.Compose:
    """Return torchvision's transforms for those of a config.

    Args:
        pipeline: The config's, of random crops and flips.
        mean: Of the channels, in units of 0 to 255.
        std: The same.
    """
    steps: list[Any] = []
    for cfg in pipeline:
        if cfg['type'] == 'RandomCrop':
            steps.append(transforms.RandomCrop(cfg['crop_size'], padding=cfg['padding']))
        elif cfg['type'] == 'RandomFlip':
            steps.append(transforms.RandomHorizontalFlip(cfg['prob']))
    unit = [[value / 255 for value in values] for values in (mean, std)]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*unit)])


class PlainLoop:
    """The loop, stepped from outside.

    Args:
        teacher: An ``ImageClassifier``.
        student: Another.
        dataset: Gives images and labels.
        methods: Of ``PLAIN_METHODS``.
        batch_size: Images a step.
        optimizer: Settings of ``torch.optim.SGD``.
        workers: Processes that load data.
        device: Where to train.

    Attributes:
        parts: What a step's time is spent in: the methods by the name of their part.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        dataset: Dataset,
        methods: Sequence[str],
        batch_size: int,
        optimizer: dict,
        workers: int,
        device: str,
    ) -> None:
        # as the scripts have it, for a GPU
        torch.backends.cudnn.benchmark = True
        self.device = device
        self.methods = methods
        self.workers = workers
        self.teacher = teacher.to(device).eval()
        self.student = student.to(device).train()
        self.icd = PlainICD(student.head.fc.in_features, teacher.head.fc.in_features).to(device)
        trained = [*self.student.parameters(), *(self.icd.parameters() if 'icd' in methods else ())]
        self.optimizer = torch.optim.SGD(trained, **optimizer)
        self.loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers)
        self.batches: Iterator = iter(())
        self.batches_left = 0
        self.steps = 0
        self.meters = {'loss': 0.0, 'top1': 0.0, 'top5': 0.0}
        self.parts = {
            'data': [(self, 'next_batch')],
            'teacher': [(self, 'run_teacher')],
            'student': [(self, 'run_student')],
            'losses': [(self, 'distillation_loss')],
            'backward': [(self, 'backward')],
            'optimizer': [(self.optimizer, 'zero_grad'), (self.optimizer, 'step')],
        }

    def start_epoch(self) -> None:
        self.batches = iter(self.loader)
        self.batches_left = len(self.loader)

    def close(self) -> None:
        """End the processes that load data."""
        self.batches = iter(())

    def next_batch(self) -> tuple[Tensor, Tensor]:
        images, labels = next(self.batches)
        self.batches_left -= 1
        return images.to(self.device), labels.to(self.device)

    def run_teacher(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return feature_and_logits(self.teacher, images)

    def run_student(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature, logits = feature_and_logits(self.student, images)
        return feature, logits, F.cross_entropy(logits, labels)

    def distillation_loss(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
        loss = 0.0
        if 'icd' in self.methods:
            loss = loss + self.icd(student[0], teacher[0])
        if 'kd' in self.methods:
            loss = loss + plain_kd(student[1], teacher[1])
        return loss

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def follow(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Keep running means of the loss and of the accuracy, as the scripts print them."""
        best = logits.topk(min(5, logits.shape[1])).indices
        hits = best == labels[:, None]
        new = {'loss': loss.item(), 'top1': hits[:, 0].float().mean().item(), 'top5': hits.any(1).float().mean().item()}
        for name, value in new.items():
            self.meters[name] += (value - self.meters[name]) / self.steps

    def step(self) -> None:
        images, labels = self.next_batch()
        teacher = self.run_teacher(images)
        feature, logits, loss = self.run_student(images, labels)
        loss = loss + self.distillation_loss((feature, logits), teacher)
        self.optimizer.zero_grad()
        self.backward(loss)
        self.optimizer.step()
        self.steps += 1
        self.follow(loss, logits, labels)
