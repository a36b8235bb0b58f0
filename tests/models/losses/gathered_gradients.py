"""One process of test_gathered_loss.py: gradients of ICD under DDP with part of a batch.

gathered_gradients.py RANK ADDRESS_FILE OUT.npz SIZES...
"""

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import icd_mmrazor  # noqa: F401
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


def gradients(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy() for name, p in model.named_parameters()}


def main() -> None:
    rank, address_file, out, *sizes = sys.argv[1:]
    sizes = [int(size) for size in sizes]
    dist.init_process_group('gloo', init_method=f'file://{address_file}', rank=int(rank), world_size=len(sizes))
    rows = slice(sum(sizes[: int(rank)]), sum(sizes[: int(rank) + 1]))
    results = {}
    for gather in (True, False):
        model, s, t = seeded(gather)
        parallel = nn.parallel.DistributedDataParallel(model)
        value = parallel(s[rows], t[rows])
        value.backward()
        dist.all_reduce(value := value.detach() / len(sizes))
        results |= {f'{gather}/{name}': gradient for name, gradient in gradients(model).items()}
        results[f'{gather}/value'] = value.numpy()
    if rank == '0':
        np.savez(out, **results)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
