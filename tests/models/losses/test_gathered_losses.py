"""ICD, CRD and RRD over real gloo processes against one process with the whole batch."""

from pathlib import Path

import torch
import torch.distributed as dist
from launches import in_processes
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from icd_mmrazor.models import ICDLoss, LinearProjection
from icd_mmrazor.models.losses import ContrastiveRepresentationLoss, RRDLoss

LABELS = torch.arange(30) % 3
STEPS, BATCH = 3, 10
METHODS = ('icd', 'crd', 'rrd_before', 'rrd_after')


class Embedded(nn.Module):
    """A loss with its two projections."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.student, self.teacher = LinearProjection(6, 5), LinearProjection(7, 5)
        if method == 'icd':
            self.loss = ICDLoss(gather_distributed=True)
        elif method == 'crd':
            self.loss = ContrastiveRepresentationLoss(num_negatives=8, embed_dims=5)
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
    if method == 'crd':
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
        assert len(memories) == STEPS * dict(icd=0, crd=3).get(method, 2)
        for name in memories:
            for rank in ranks[1:]:
                assert torch.equal(rank[f'{method}/{name}'], ranks[0][f'{method}/{name}']), name
