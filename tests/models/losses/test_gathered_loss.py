"""gather_distributed over real gloo processes against one process with the whole batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from launches import in_processes
from torch import Tensor, nn

from icd_mmrazor.models import ICDLoss, LinearProjection


class Embedded(nn.Module):
    """ICD with its two projections."""

    def __init__(self, gather_distributed: bool) -> None:
        super().__init__()
        self.student, self.teacher = LinearProjection(24, 16), LinearProjection(40, 16)
        self.icd = ICDLoss(gather_distributed=gather_distributed)

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        return self.icd(self.student(s), self.teacher(t))


def seeded(gather_distributed: bool) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(5)
    return Embedded(gather_distributed).double(), torch.randn(12, 24).double(), torch.randn(12, 40).double()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


def step(rank: int, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Take gradients under DDP with part of a batch, gathered and not."""
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    results = {}
    for gather in (True, False):
        model, s, t = seeded(gather)
        parallel = nn.parallel.DistributedDataParallel(model)
        value = parallel(s[rows], t[rows])
        value.backward()
        dist.all_reduce(value := value.detach() / len(sizes))
        results |= {f'{gather}/{name}': gradient for name, gradient in gradients(model).items()}
        results[f'{gather}/value'] = value
    return results


@pytest.mark.parametrize('sizes', [(6, 6), (7, 4, 1)], ids=str)
def test_gradients_equal_those_of_one_process(sizes: tuple[int, ...], tmp_path: Path) -> None:
    got = in_processes(step, len(sizes), tmp_path, sizes)[0]
    model, s, t = seeded(gather_distributed=False)
    value = model(s, t)
    value.backward()
    assert got['True/value'].item() == pytest.approx(value.item(), rel=1e-12)
    for name, want in gradients(model).items():
        # the bias has no gradient; 1e-10 of a typical one is its bar
        bar = 1e-10 * max(want.abs().max().item(), 1e-3)
        assert (got[f'True/{name}'] - want).abs().max() <= bar, name

    # without it each process has its own negatives: another loss, the mean over the processes
    first, parts = 0, []
    for size in sizes:
        parts.append(model(s[first : first + size], t[first : first + size]).item())
        first += size
    assert got['False/value'].item() == pytest.approx(np.mean(parts), rel=1e-12)
    assert abs(got['False/value'] - got['True/value']) > 0.1
