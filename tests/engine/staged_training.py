"""One of several processes: train factor transfer a step in each stage, on its own images; compare the weights.

Prints the names of the parameters that differ between the processes, and nothing else.
"""

import sys

import torch
import torch.distributed as dist

from icd_mmrazor.compat.distributed import process_group

# isort: split
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS


def train(config: str) -> None:
    DefaultScope.get_instance('staged', scope_name='mmpretrain')
    torch.manual_seed(0)
    algorithm = MODELS.build(Config.fromfile(config).model)
    model = torch.nn.parallel.DistributedDataParallel(algorithm, find_unused_parameters=True)
    optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.1)
    torch.manual_seed(dist.get_rank())
    for stage in ('initial', 'main'):
        algorithm.distiller.set_stage(stage)
        for _ in range(2):
            images, samples = torch.randn(4, 3, 16, 16), [DataSample().set_gt_label(i) for i in range(4)]
            optimizer.zero_grad()
            algorithm.parse_losses(model(images, samples, mode='loss'))[0].backward()
            optimizer.step()
    different = []
    for name, parameter in algorithm.named_parameters():
        copies = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, parameter.detach())
        if not all(torch.equal(copies[0], copy) for copy in copies):
            different.append(name)
    if dist.get_rank() == 0:
        print(different)


if __name__ == '__main__':
    dist.init_process_group('gloo')
    # ends it
    with process_group(Config({'launcher': 'none'})):
        train(*sys.argv[1:])
