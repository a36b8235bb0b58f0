#!/usr/bin/env python3
"""Time ICD over several processes, each image a negative of all; started by tools/benchmarks/step_time.py --ranks.

    torchrun --nproc_per_node N gathered_loss.py BATCH_SIZE FILE

BATCH_SIZE is that of each process. The median seconds of the loss with its projections and backward pass go into FILE.
"""

import os
import statistics
import sys
from pathlib import Path

import icd_mmrazor  # noqa: F401 (first: it says what to install where the stack is missing)

# isort: split
import step_measures as measures
import torch
import torch.distributed as dist

from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.compat.layout import accelerator_available

# the width of the last feature of ResNet-32x4 and ResNet-8x4
WIDTH = 256
WARM_UP, TURNS, STEPS = 5, 15, 10


def main() -> None:
    batch_size, file = int(sys.argv[1]), Path(sys.argv[2])
    device = 'cuda' if accelerator_available() else 'cpu'
    if device == 'cuda':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    dist.init_process_group('nccl' if device == 'cuda' else 'gloo')
    loss = measures.ICDAlone(batch_size, WIDTH, WIDTH, device, gather_distributed=True)
    seconds = []
    # as many steps on every rank, or one would wait for the others for ever
    for turn in range(WARM_UP + TURNS):
        dist.barrier()
        begin = measures.now(device)
        for _ in range(STEPS):
            loss.step()
        if turn >= WARM_UP:
            seconds.append((measures.now(device) - begin) / STEPS)
    if dist.get_rank() == 0:
        write_json(statistics.median(seconds), file)
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
