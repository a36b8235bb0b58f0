"""The example in plain PyTorch."""

import runpy

import pytest
import torch
from helpers import ROOT

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
