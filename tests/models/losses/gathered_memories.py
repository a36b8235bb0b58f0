"""One process of test_gathered_memories.py: CRD and RRD under DDP with part of each batch.

gathered_memories.py RANK ADDRESS_FILE OUT.npz SIZES...
"""

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import icd_mmrazor  # noqa: F401  # before the stack, which it mends

# isort: split
from mmpretrain.structures import DataSample

from icd_mmrazor.models import LinearProjection
from icd_mmrazor.models.losses import ContrastiveRepresentationLoss, RRDLoss

LABELS = torch.arange(30) % 3
STEPS, BATCH = 3, 10


class Embedded(nn.Module):
    """A loss with its two projections."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.student, self.teacher = LinearProjection(6, 5), LinearProjection(7, 5)
        if method == 'crd':
            self.loss = ContrastiveRepresentationLoss(num_negatives=8, embed_dims=5)
        else:
            self.loss = RRDLoss(memory_size=16, embed_dims=5)

    def forward(self, s: Tensor, t: Tensor, index: Tensor, negatives: Tensor) -> Tensor:
        features = self.student(s), self.teacher(t)
        if isinstance(self.loss, RRDLoss):
            return self.loss(*features)
        samples = [DataSample(metainfo={'sample_idx': i}) for i in index.tolist()]
        return self.loss(*features, samples, negatives)


def trained(method: str, rows: slice, parallel: bool, seed: int) -> dict[str, np.ndarray]:
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
        results[f'{step}/value'] = value.numpy()
        grads = {f'{step}/{name}': p.grad for name, p in model.named_parameters() if p.grad is not None}
        results |= {name: grad.numpy().copy() for name, grad in grads.items()}
        results |= {f'{step}/{name}': buffer.numpy().copy() for name, buffer in model.named_buffers()}
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.01 * p.grad
    return results


def main() -> None:
    rank, address_file, out, *sizes = sys.argv[1:]
    rank, sizes = int(rank), [int(size) for size in sizes]
    dist.init_process_group('gloo', init_method=f'file://{address_file}', rank=rank, world_size=len(sizes))
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    results = {}
    for method in ('crd', 'rrd'):
        for name, array in trained(method, rows, parallel=True, seed=rank).items():
            results[f'{method}/{name}'] = array
    np.savez(out, **results)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
