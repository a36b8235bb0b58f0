"""The stack without this package, second part: mmpretrain's retrievers."""

import contextlib
import multiprocessing
import warnings
from pathlib import Path
from types import SimpleNamespace

from raw_mmrazor import raises, try_break


def retriever(**settings: object) -> 'mmpretrain.models.ImageToImageRetriever':  # noqa: F821
    """Return a retriever of 2 x 2 images, whose gallery has three."""
    import torch
    from mmpretrain.models import ImageToImageRetriever

    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 5))
    return ImageToImageRetriever(encoder, torch.ones(3, 5), **settings)


@try_break
def compare_with_a_gallery_at_once__names(folder: Path) -> bool:
    import torch

    return raises(RecursionError, retriever(similarity_fn='dot_product').predict, torch.ones(1, 1, 2, 2))


@try_break
def compare_with_a_gallery_at_once__memory(folder: Path) -> bool:
    """A tensor of queries x gallery x width, by what torch allocates."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        retriever().similarity_fn(torch.ones(50, 40), torch.ones(60, 40))
    return max(event.cpu_memory_usage for event in profiled.key_averages()) >= 50 * 60 * 40 * 4


@try_break
def encode_galleries_of_students(folder: Path) -> bool:
    from mmengine.model import BaseModel
    from mmpretrain.engine.hooks import PrepareProtoBeforeValLoopHook

    class Algorithm(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.architecture = retriever()

        def forward(self) -> None:
            pass

    model = Algorithm()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        PrepareProtoBeforeValLoopHook().before_val(SimpleNamespace(model=model))
    return not model.architecture.prototype_inited


def embed_in_two_processes(rank: int, folder: Path) -> None:
    """Embed a gallery of three images, one of which goes to both processes; write the embeddings."""
    import torch
    import torch.distributed as dist
    from mmengine.dataset import DefaultSampler, pseudo_collate
    from mmpretrain.structures import DataSample

    dist.init_process_group('gloo', init_method=(folder / 'gallery_store').as_uri(), rank=rank, world_size=2)
    network = retriever()
    torch.nn.init.ones_(network.image_encoder[1].weight)
    torch.nn.init.zeros_(network.image_encoder[1].bias)
    samples = [dict(inputs=torch.ones(1, 2, 2), data_samples=DataSample(metainfo=dict(sample_idx=i))) for i in range(3)]
    sampler = DefaultSampler(samples, shuffle=False)
    loader = torch.utils.data.DataLoader(samples, sampler=sampler, collate_fn=pseudo_collate)
    with torch.no_grad():
        torch.save(network._get_prototype_vecs_from_dataloader(loader), folder / f'gallery_{rank}.pth')


@try_break
def embed_each_image_of_a_gallery_once(folder: Path) -> bool:
    import torch

    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=embed_in_two_processes, args=(rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return torch.load(folder / 'gallery_0.pth').amax(dim=1).tolist() == [8.0, 4.0, 4.0]


@try_break
def measure_searches_with_a_new_numpy(folder: Path) -> bool:
    import torch
    from mmpretrain.evaluation import RetrievalRecall

    return raises(AttributeError, RetrievalRecall.calculate, torch.ones(1, 2), [[0]], topk=1)


@try_break
def keep_galleries_out_of_buffers(folder: Path) -> bool:
    """Average a retriever with a batch norm, which has buffers."""
    import torch
    from mmengine.model import ExponentialMovingAverage

    network = retriever()
    network.extra = torch.nn.BatchNorm1d(4)
    averaged = ExponentialMovingAverage(network, update_buffers=False)
    network.prepare_prototype()
    network.extra.running_mean.fill_(7.0)
    with contextlib.suppress(RuntimeError):
        averaged.update_parameters(network)
        averaged.update_parameters(network)
    return averaged.module.extra.running_mean.mean().item() != 7.0
