"""Trainings with a second, augmented batch: in mixed precision, and in two processes."""

import copy
from pathlib import Path

import pytest
import torch
from launches import in_processes
from mmengine.model import MMDistributedDataParallel
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.datasets.randomness import seed_all


def of_pair(*methods: str) -> nn.Module:
    cfg = recipes.compose('res20_res8_digits', methods)
    torch.manual_seed(0)
    return MODELS.build({**cfg.model, 'teacher_ckpt': None, 'random_teacher': True}).train()


def batch_of(first: int = 0) -> tuple[Tensor, list[DataSample]]:
    generator = torch.Generator().manual_seed(first)
    samples = [DataSample().set_gt_label(i % 10) for i in range(8)]
    return torch.randn(8, 3, 16, 16, generator=generator), samples


@pytest.mark.slow
@pytest.mark.parametrize('methods', [('r2kd', 'icd'), ('mixkd',)], ids='+'.join)
def test_under_bf16_autocast(methods: tuple) -> None:
    losses = []
    for enabled in (False, True):
        model = of_pair(*methods)
        seed_all(1)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            found = model.loss(*batch_of())
        total, _ = model.parse_losses(found)
        total.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
        losses.append({name: value.item() for name, value in found.items() if 'loss' in name})
    assert losses[1] == pytest.approx(losses[0], rel=0.1, abs=0.02)


def step(rank: int, methods: tuple) -> dict[str, Tensor]:
    """Train a step with a batch of its own; return the weights and what was learned from."""
    model = MMDistributedDataParallel(of_pair(*methods))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seed_all(rank)
    losses = model(*batch_of(10 * rank), mode='loss')
    model.module.parse_losses(losses)[0].backward()
    optimizer.step()
    return {name: tensor.clone() for name, tensor in model.module.named_parameters() if tensor.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize('methods', [('r2kd', 'icd'), ('mixkd',)], ids='+'.join)
def test_over_two_processes(methods: tuple, tmp_path: Path) -> None:
    """Each augments its own images; the weights are the mean of what one process would do with each batch."""
    one, two = in_processes(step, 2, tmp_path, methods)
    model, gradients = of_pair(*methods), []
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    for rank in range(2):
        alone = copy.deepcopy(model)
        seed_all(rank)
        alone.parse_losses(alone.loss(*batch_of(10 * rank)))[0].backward()
        gradients.append({name: p.grad for name, p in alone.named_parameters()})
    for name, weight in one.items():
        assert torch.equal(weight, two[name]), name
        mean = (gradients[0][name] + gradients[1][name]) / 2
        torch.testing.assert_close(weight, before[name] - 0.01 * mean, rtol=1e-4, atol=1e-5, msg=name)
