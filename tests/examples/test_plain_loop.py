"""The example in plain PyTorch, and the loss in a loop of the reader's own."""

import runpy

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT
from torch import nn

from icd_mmrazor.models import ICDLoss, LinearProjection

EXAMPLE = runpy.run_path(str(ROOT / 'examples' / 'plain_loop.py'))


@pytest.mark.parametrize(('batch', 'log_tau'), [(7, 1.0), (4, 3.0), (1, 0.5)])
def test_plain_icd_equals_icd_loss(batch: int, log_tau: float) -> None:
    """Value and gradients, also above the limit of the temperature and for a single image."""
    plain, loss = EXAMPLE['PlainICD'](6, 10).double(), ICDLoss().double()
    for icd in (plain, loss):
        icd.log_tau.data.fill_(log_tau)
    projections = [LinearProjection(width).double() for width in (6, 10)]
    for ours, theirs in zip(projections, (plain.embed_student, plain.embed_teacher), strict=True):
        ours.linear.load_state_dict(theirs.state_dict())
    features = [torch.randn(batch, width, dtype=torch.float64, requires_grad=True) for width in (6, 10)]
    want = loss(*(project(feature) for project, feature in zip(projections, features, strict=True)))
    got = plain(*features)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    ours = [*features, loss.log_tau, loss.bias, *(p for each in projections for p in each.linear.parameters())]
    theirs = [*features, plain.log_tau, plain.bias]
    theirs += [p for each in (plain.embed_student, plain.embed_teacher) for p in each.parameters()]
    for a, b in zip(torch.autograd.grad(got, theirs), torch.autograd.grad(want, ours), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_example_trains_teacher_and_students() -> None:
    teacher, alone, distilled = EXAMPLE['accuracies'](seed=0, epochs=30)
    assert 85 < teacher <= 100
    # chance is 10 %
    assert min(alone, distilled) > 20


class Network(nn.Module):
    """A network as the README's loop has it: it returns its feature and its logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Tanh()), nn.Linear(width, 3)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature = self.body(images)
        return feature, self.head(feature)


def test_the_loss_in_a_plain_loop() -> None:
    """The ten lines of the README."""
    teacher, student = Network(256).requires_grad_(False), Network(64)
    loader = [(torch.randn(8, 3, 2, 2), torch.randint(3, (8,))) for _ in range(3)] * 20
    before = [p.clone() for p in student.parameters()]
    values = []

    icd, embed_s, embed_t = ICDLoss(), nn.Linear(64, 128), nn.Linear(256, 128)
    trained = nn.ModuleList([student, icd, embed_s, embed_t])
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
    for images, labels in loader:
        with torch.no_grad():
            t_feature, _ = teacher(images)
        s_feature, logits = student(images)
        loss = F.cross_entropy(logits, labels) + icd(embed_s(s_feature), embed_t(t_feature))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())

    assert sum(values[-3:]) < 0.7 * sum(values[:3])
    assert all(not torch.equal(p, old) for p, old in zip(student.parameters(), before, strict=True))
