"""Every method compiled, under autocast and over two processes, on one pair of networks."""

from pathlib import Path

import pytest
import torch
from helpers import TORCH_VERSION, methods_of_views, two_views
from launches import in_processes
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes

PAIR, IMAGES = 'res20_res8_digits', 8


def fitting(views: int) -> list[str]:
    """Return the methods that fit the pair, of so many views of each image: all but ViTKD, for transformers."""
    return [method for method in methods_of_views(views) if method != 'vitkd']


def built(cfg: Config) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build({**cfg.model, 'teacher_ckpt': None, 'random_teacher': True})
    for module in model.modules():
        if hasattr(module, 'set_dataset'):
            module.set_dataset(torch.arange(40) % 10)
    if hasattr(model.distiller, 'set_progress'):
        model.distiller.set_progress(epoch=1, iteration=1)
    return model.train()


def batch(views: int, first: int = 0) -> tuple[Tensor, list[DataSample]]:
    generator = torch.Generator().manual_seed(first)
    samples = [DataSample(metainfo=dict(sample_idx=first + i)).set_gt_label(i % 10) for i in range(IMAGES)]
    images = torch.randn(views * IMAGES, 3, 16, 16, generator=generator)
    return images, samples if views == 1 else two_views(samples)


@pytest.mark.slow
@pytest.mark.skipif(
    TORCH_VERSION < (2, 14), reason='torch 2.10 does not trace recorders into one graph; no torch between was tried'
)
@pytest.mark.parametrize('stage', ['initial', 'main'])
def test_all_methods_but_one_are_one_graph(stage: str) -> None:
    """All that train in a stage together. CRD looks up its memories between two graphs; MLKD: ``test_two_views.py``."""
    torch.compiler.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    # ViTKD needs transformers
    at_work = {'initial': {'ab', 'fsp', 'ft'}, 'main': {*methods_of_views(1)} - {'ab', 'fsp', 'crd', 'vitkd'}}[stage]
    cfg = recipes.compose('res56_res20_cifar100', sorted(at_work))
    cfg.model.update(teacher_ckpt=None, random_teacher=True, torch_compile=dict(backend=backend, fullgraph=True))
    # of the same shapes, quicker to trace
    cfg.model.teacher.backbone.depth, cfg.model.architecture.backbone.depth = 14, 8
    model = MODELS.build(cfg.model).train()
    model.distiller.set_stage(stage)
    for epoch in range(2):
        model.distiller.set_progress(epoch, iteration=epoch)
        losses = model.loss(torch.randn(4, 3, 32, 32), [DataSample().set_gt_label(torch.arange(4))])
        assert len(graphs) == 1
    assert {name.split('.')[1] for name in losses if name.startswith('distill.')} == at_work
    assert model.torch_compile


@pytest.mark.slow
@pytest.mark.parametrize('views', [1, 2])
def test_under_bf16_autocast(views: int) -> None:
    """Each loss is finite, and close to that in float32."""
    cfg = recipes.compose(PAIR, fitting(views))
    for stage in ('initial', 'main')[views - 1 :]:
        losses = []
        for enabled in (False, True):
            model = built(cfg)
            model.distiller.set_stage(stage)
            with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
                torch.manual_seed(1)
                found = model.loss(*batch(views))
            total, _ = model.parse_losses(found)
            total.backward()
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
            losses.append({name: value.item() for name, value in found.items() if 'loss' in name})
        plain, half = losses
        assert plain.keys() == half.keys()
        for name, value in plain.items():
            assert half[name] == pytest.approx(value, rel=0.1, abs=0.02), name


def steps(rank: int, views: int) -> dict[str, Tensor]:
    """Train a step in each stage with batches of its own; return the weights and memories."""
    # mmengine's wrapper has no other way to be told that each stage leaves parts idle
    model = MMDistributedDataParallel(built(recipes.compose(PAIR, fitting(views))), find_unused_parameters=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for number, stage in enumerate(('initial', 'main')[views - 1 :]):
        model.module.distiller.set_stage(stage)
        optimizer.zero_grad()
        losses = model(*batch(views, first=10 * rank + number), mode='loss')
        total, _ = model.module.parse_losses(losses)
        assert torch.isfinite(total), losses
        total.backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in model.module.named_parameters() if tensor.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize('views', [1, 2])
def test_over_two_processes(views: int, tmp_path: Path) -> None:
    """The weights stay the same in both."""
    one, two = in_processes(steps, 2, tmp_path, views)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert torch.isfinite(weight).all(), name
        assert torch.equal(weight, two[name]), name
