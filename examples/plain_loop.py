"""The whole method in a plain PyTorch loop: teacher, student, ICD (arXiv 2407.11802) and the update.

The teacher learns from 1297 of scikit-learn's digits, the student from the first 100 of them, alone or with ICD.
``icd_mmrazor.models.ICDLoss`` is the same loss with all its options; nothing of icd_mmrazor is needed here.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn


class PlainICD(nn.Module):
    """ICD between a student's and a teacher's features, with their projections, temperature and bias."""

    def __init__(self, student_width: int, teacher_width: int, embed_dims: int = 128) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student_width, embed_dims)
        self.embed_teacher = nn.Linear(teacher_width, embed_dims)
        self.log_tau = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of a batch of features, ``B x student_width`` and ``B x teacher_width``."""
        u = F.normalize(self.embed_student(student), dim=1)
        v = F.normalize(self.embed_teacher(teacher), dim=1)
        similarities = self.log_tau.exp().clamp(max=10) * u @ v.T + self.bias
        log_p = similarities.log_softmax(dim=1)  # each student over the teachers
        log_q = similarities.T.log_softmax(dim=1)  # each teacher over the students
        contrastive = -log_p.diagonal().mean()
        invariance = F.kl_div(log_p, log_q, reduction='batchmean', log_target=True)
        return contrastive + 0.5 * invariance


def network(width: int) -> nn.Sequential:
    """Return a small classifier in two parts: ``[0]`` computes the feature, ``[1]`` the logits."""
    feature = nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    return nn.Sequential(feature, nn.Linear(2 * width, 10))


def train(student: nn.Sequential, images: Tensor, labels: Tensor, epochs: int, teacher: nn.Sequential | None) -> None:
    """Train a network, with ICD if there is a teacher."""
    icd = PlainICD(student[1].in_features, teacher[1].in_features) if teacher else nn.Module()
    optimizer = torch.optim.SGD([*student.parameters(), *icd.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            feature = student[0](images[batch])
            loss = F.cross_entropy(student[1](feature), labels[batch])
            if teacher:
                with torch.no_grad():
                    teacher_feature = teacher[0](images[batch])
                loss = loss + icd(feature, teacher_feature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    student.eval()


def accuracies(seed: int, epochs: int = 60) -> tuple[float, float, float]:
    """Return the accuracies in % of the teacher, the student alone and the student with ICD on 500 other digits."""
    torch.manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    teacher, alone, distilled = network(32), network(8), network(8)
    train(teacher, images[:1297], labels[:1297], epochs // 3, teacher=None)
    train(alone, images[:100], labels[:100], epochs, teacher=None)
    train(distilled, images[:100], labels[:100], epochs, teacher)
    right = [each(images[1297:]).argmax(dim=1) == labels[1297:] for each in (teacher, alone, distilled)]
    return tuple(100 * each.float().mean().item() for each in right)


if __name__ == '__main__':
    for seed in range(5):
        print('seed {}: teacher {:.1f} %, student alone {:.1f} %, with ICD {:.1f} %'.format(seed, *accuracies(seed)))
