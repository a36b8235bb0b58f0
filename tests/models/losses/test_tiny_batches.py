"""Three processes with one image each, or a few, against one process."""

from pathlib import Path

import pytest
import torch
from launches import in_processes
from torch import Tensor, nn

from icd_mmrazor.models import ICDLoss
from icd_mmrazor.models.losses import CCLoss, PKTLoss, RKDLoss, RRDLoss, SPLoss

# RKD relates three images
SIZES = [(1, 1, 1), (3, 1, 1)]
WHOLE = {'icd_gathered': lambda: ICDLoss(gather_distributed=True), 'rrd': lambda: RRDLoss(8, embed_dims=5)}
APART = {'icd': ICDLoss, 'sp': SPLoss, 'cc': CCLoss, 'pkt': PKTLoss, 'rkd': RKDLoss}


class Student(nn.Module):
    """A student with a batch norm, and a loss against given features."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Tanh())
        self.loss = loss

    def forward(self, images: Tensor, t: Tensor) -> Tensor:
        return self.loss(self.body(images).mean((2, 3)), t)


def step(name: str, sizes: tuple[int, ...], rank: int | None) -> dict[str, Tensor]:
    """Return the gradients of one step, of the images of a rank or of all."""
    torch.manual_seed(3)
    model = Student({**WHOLE, **APART}[name]()).double()
    images, t = torch.randn(sum(sizes), 3, 6, 6).double(), torch.randn(sum(sizes), 5).double()
    if name in WHOLE:
        # a batch norm's statistics are those of a process
        model.body[1].eval()
    rows = slice(None) if rank is None else slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    parallel = rank is not None and torch.distributed.is_initialized()
    wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False) if parallel else model
    wrapped(images[rows], t[rows]).backward()
    return {key: weight.grad for key, weight in model.named_parameters()}


def all_steps(rank: int) -> dict[str, dict[str, Tensor]]:
    return {f'{name} {sizes}': step(name, sizes, rank) for sizes in SIZES for name in (*WHOLE, *APART)}


def test_gradients_of_tiny_batches(tmp_path: Path) -> None:
    """Losses over all processes are those of the whole batch; the others the mean of separate batches."""
    ranks = in_processes(all_steps, 3, tmp_path)
    for sizes in SIZES:
        for name in (*WHOLE, *APART):
            if name in WHOLE:
                want = step(name, sizes, None)
            else:
                alone = [step(name, sizes, rank) for rank in range(3)]
                want = {key: sum(each[key] for each in alone) / 3 for key in alone[0]}
            largest = max(gradient.abs().max() for gradient in want.values())
            assert largest > 1e-4 or (sizes == (1, 1, 1) and name in APART), (name, sizes)
            for rank in ranks:
                for key, got in rank[f'{name} {sizes}'].items():
                    assert torch.isfinite(got).all()
                    torch.testing.assert_close(got, want[key], rtol=1e-9, atol=1e-12, msg=f'{name} {sizes} {key}')


@pytest.mark.parametrize('name', APART)
def test_one_image_teaches_nothing(name: str) -> None:
    """Which is why SanityCheckHook refuses batches of one image."""
    assert all(gradient.abs().max() < 1e-6 for gradient in step(name, (1,), 0).values())
    assert APART[name].compares_images
