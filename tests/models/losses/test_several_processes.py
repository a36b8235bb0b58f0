"""Losses over real gloo processes, against one process with the whole batch or with each part of it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from launches import in_processes
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from icd_mmrazor.models import ICDLoss, LinearProjection
from icd_mmrazor.models.losses import (
    CCLoss,
    ComparativeLoss,
    ContrastiveRepresentationLoss,
    CorrelationDistanceLoss,
    PKTLoss,
    RKDLoss,
    RRDLoss,
    SPLoss,
)
from icd_mmrazor.models.losses.crd_queue_loss import CRDQueueLoss
from icd_mmrazor.models.losses.dist_loss import PearsonCorrelationLoss
from icd_mmrazor.models.losses.ega_loss import EGALoss
from icd_mmrazor.models.losses.itrd_loss import ITRDLoss
from icd_mmrazor.models.losses.rrd_memory_loss import RRDMemoryLoss
from icd_mmrazor.models.losses.rsd_loss import RSDLoss
from icd_mmrazor.models.losses.srd_loss import SRDLoss

LABELS = torch.arange(30) % 3
STEPS, BATCH = 3, 10
METHODS = ('icd', 'crd', 'crd_queue', 'rrd_before', 'rrd_after', 'rrd_memory')
OF_ALL_IMAGES = ('crd', 'rrd_memory')


class Embedded(nn.Module):
    """A loss with its two projections."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.student, self.teacher = LinearProjection(6, 5), LinearProjection(7, 5)
        if method == 'icd':
            self.loss = ICDLoss(gather_distributed=True)
        elif method in OF_ALL_IMAGES:
            loss = ContrastiveRepresentationLoss if method == 'crd' else RRDMemoryLoss
            self.loss = loss(num_negatives=8, embed_dims=5)
        elif method == 'crd_queue':
            self.loss = CRDQueueLoss(memory_size=16, embed_dims=5)
        else:
            self.loss = RRDLoss(memory_size=16, embed_dims=5, enqueue=method.removeprefix('rrd_'))

    def forward(self, s: Tensor, t: Tensor, index: Tensor, negatives: Tensor) -> Tensor:
        features = self.student(s), self.teacher(t)
        if not isinstance(self.loss, ContrastiveRepresentationLoss):
            return self.loss(*features)
        samples = [DataSample(metainfo={'sample_idx': i}) for i in index.tolist()]
        return self.loss(*features, samples, negatives)


def trained(method: str, rows: slice, parallel: bool, seed: int) -> dict[str, Tensor]:
    """Take a few steps with these rows of each batch; return gradients, values and memories."""
    torch.manual_seed(5)
    model = Embedded(method).double()
    batches = [
        (torch.randn(BATCH, 6).double(), torch.randn(BATCH, 7).double(), torch.randint(0, 30, (BATCH,)))
        for _ in range(STEPS)
    ]
    tables = [torch.randint(0, 30, (BATCH, 8)) for _ in range(STEPS)]
    wrapped = nn.parallel.DistributedDataParallel(model) if parallel else model
    torch.manual_seed(seed)
    if method in OF_ALL_IMAGES:
        model.loss.set_dataset(LABELS)
    results = {}
    for step, ((s, t, index), negatives) in enumerate(zip(batches, tables, strict=True)):
        # one image is in the batch of every process
        index[[0, -1]] = 4
        model.zero_grad()
        value = wrapped(s[rows], t[rows], index[rows], negatives[rows])
        value.backward()
        value = value.detach()
        if parallel:
            dist.all_reduce(value)
            value /= dist.get_world_size()
        results[f'{step}/value'] = value
        grads = {f'{step}/{name}': p.grad for name, p in model.named_parameters() if p.grad is not None}
        results |= {name: grad.clone() for name, grad in grads.items()}
        results |= {f'{step}/{name}': buffer.clone() for name, buffer in model.named_buffers()}
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.01 * p.grad
    return results


def steps(rank: int, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Take the steps of all methods with part of each batch."""
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    return {
        f'{method}/{name}': tensor
        for method in METHODS
        for name, tensor in trained(method, rows, parallel=True, seed=rank).items()
    }


def test_steps_equal_those_of_one_process(tmp_path: Path) -> None:
    sizes = (7, 3)
    ranks = in_processes(steps, len(sizes), tmp_path, sizes)
    for method in METHODS:
        # processes with seeds of their own start with the memories of the first
        alone = trained(method, slice(0, BATCH), parallel=False, seed=0)
        assert {f'{method}/{name}' for name in alone} <= set(ranks[0])
        for name, want in alone.items():
            for rank in ranks:
                got = rank[f'{method}/{name}']
                assert (got - want).abs().max() <= 1e-10 * max(want.abs().max(), 1e-3), (method, name)
        memories = [name for name in alone if 'memory' in name or 'normalisers' in name or 'oldest' in name]
        assert len(memories) == STEPS * dict(icd=0, crd=3, rrd_memory=3).get(method, 2)
        for name in memories:
            for rank in ranks[1:]:
                assert torch.equal(rank[f'{method}/{name}'], ranks[0][f'{method}/{name}']), name


# three processes with one image each, or a few; RKD relates three images
SIZES = [(1, 1, 1), (3, 1, 1)]
WHOLE = {
    'icd_gathered': lambda: ICDLoss(gather_distributed=True),
    'rrd': lambda: RRDLoss(8, embed_dims=5),
}
APART = {
    'icd': ICDLoss,
    'sp': SPLoss,
    'cc': CCLoss,
    'pkt': PKTLoss,
    'rkd': RKDLoss,
    'ckd': lambda: ComparativeLoss(label_weight=0.0),
    'itrd': lambda: ITRDLoss((5,), (5,)),
    'srd': SRDLoss,
    'rsd': RSDLoss,
    'ega': EGALoss,
    'ckd of groups': lambda: ComparativeLoss('kl', label_weight=0.0, groups=(2, 1)),
    'dist': PearsonCorrelationLoss,
    'r2kd': CorrelationDistanceLoss,
}
# they also compare the classes of each image
LEARN_FROM_ONE = ('dist', 'r2kd')


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


@pytest.mark.parametrize('name', [name for name in APART if name not in LEARN_FROM_ONE])
def test_one_image_teaches_nothing(name: str) -> None:
    """Which is why SanityCheckHook refuses batches of one image."""
    assert all(gradient.abs().max() < 1e-6 for gradient in step(name, (1,), 0).values())
    assert APART[name]().compares_images
