"""Measured parts of a distillation on ImageNet, for scale.py."""

import ctypes
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

from icd_mmrazor import recipes
from icd_mmrazor.models.losses.functional import icd
from icd_mmrazor.models.losses.gather import gather_rows
from icd_mmrazor.models.losses.icd_loss import ICDLoss
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.models.teacher_cache.layout import Field, RowLayout
from icd_mmrazor.models.teacher_cache.store import OutputStore
from icd_mmrazor.workflow.cost import SavedBytes
from icd_mmrazor.workflow.networks import silent

import numpy as np
import torch
import torch.distributed as dist
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.flop_counter import flop_registry

PAIR = 'resnet50_mobilenet-v2_in1k'
DINO = 'timm/vit_large_patch14_dinov2.lvd142m'
# config, height and width of the images, images in a batch here, whether it is also trained
NETWORKS = {
    'ResNet-50': ('resnet50_8xb32_in1k', 224, 16, True),
    'MobileNetV2': ('mobilenet-v2_8xb32_in1k', 224, 16, True),
    'DINOv2 ViT-L/14 at 224': (dict(cfg_path=DINO, img_size=224), 224, 2, False),
    'DINOv2 ViT-L/14 at 518': (DINO, 518, 1, False),
}
WIDTH = 128  # of the embeddings of ICD
ROWS = 16  # images of a process in a real step
BATCHES = (64, 256, 1024, 4096)
MOST_MEMORY = 7e9  # of the similarities of all processes
MATRICES = 7  # of similarities that exist at the same time, at most: measured
MOVE_NOTHING = {torch.ops.aten.empty, torch.ops.aten._unsafe_view}
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Operators(TorchDispatchMode):
    """Records how many operations an operator takes, and the bytes of the tensors that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, packet = kwargs or {}, func._overloadpacket
        out = func(*args, **kwargs)
        if not func.is_view and packet not in MOVE_NOTHING:
            count = flop_registry.get(
                torch.ops.aten._scaled_dot_product_flash_attention if packet is ATTENTION else packet
            )
            flops = count(*args, **kwargs, out_val=out) if count else 0
            if packet is torch.ops.aten.convolution_backward:  # torch's count ignores groups
                flops = 2 * args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
            self.found.append((flops, sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))))
        return out


def operators(function: Callable[[], Any], images: int = 1) -> list[list[float]]:
    """Return the operations, the bytes and the number of calls of the operators of a function, for an image."""
    with Operators() as mode:
        function()
    return [[round(f / images), round(b / images), n] for (f, b), n in Counter(mode.found).items()]


def fastest(function: Callable[[], Any], calls: int = 3) -> float:
    """Return the seconds of CPU time of the fastest of some calls: what others do on the machine counts for less."""
    return min(_seconds(function, time.process_time) for _ in range(calls))


def fastest_together(function: Callable[[], Any], calls: int = 3) -> float:
    """Return the seconds of the fastest of some calls, which all processes begin together."""
    times = []
    for _ in range(calls):
        dist.barrier()
        times.append(_seconds(function, time.perf_counter))
    return min(times)


def _seconds(function: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


def network(cfg: Any, size: int, batch: int, trained: bool) -> dict[str, Any]:
    """Measure the forward pass of a network, and its training."""
    with DefaultScope.overwrite_default_scope('mmpretrain'), silent():
        net = MODELS.build(network_config(cfg, 'network')).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch)

    def forward() -> None:
        with torch.no_grad():
            net.eval()(images, mode='tensor')

    def training() -> None:
        nn.functional.cross_entropy(net.train()(images, mode='tensor'), labels).backward()

    found: dict[str, Any] = dict(parameters=sum(p.numel() for p in net.parameters()))
    for name, run in dict(forward=forward, **(dict(training=training) if trained else {})).items():
        found[name] = dict(operators=operators(run, batch), seconds=fastest(run) / batch)
    if trained:
        saved = SavedBytes()
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            training()
        found['saved_bytes'] = round(saved.bytes / batch)
    return found


def peak(function: Callable[[], Any]) -> int:
    """Return how many bytes a function adds to the memory of this process at most (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls have left
    Path('/proc/self/clear_refs').write_text('5')
    before = _status('VmRSS')
    function()
    return 1024 * (_status('VmHWM') - before)


def _status(name: str) -> int:
    return int(Path('/proc/self/status').read_text().split(f'{name}:')[1].split()[0])


def similarities(own: int, all_images: int) -> Callable[[], Any]:
    """Return the loss of ICD with its gradients, of some images that are compared with all."""
    rows, others = (nn.functional.normalize(torch.randn(2, n, WIDTH), dim=2) for n in (own, all_images))
    tau, negatives = torch.tensor(2.7), () if own == all_images else others
    for tensor in (rows, others, tau):
        tensor.requires_grad_()
    return lambda: sum(icd(*rows, tau, 0.0, *negatives)).backward()


def gathered(batch: int) -> dict[str, float]:
    """Measure the loss of ICD with the images of all processes as negatives."""
    loss, world = ICDLoss(gather_distributed=True), dist.get_world_size()
    student, teacher = torch.randn(2, batch, WIDTH, requires_grad=True)

    def gather() -> None:
        (students, teachers), _ = gather_rows(student, teacher)
        (students.sum() + teachers.sum()).backward()

    whole = lambda: loss.compare(student, teacher).backward()  # noqa: E731
    result = dict(world=world, batch=batch, peak=peak(whole), seconds=fastest_together(whole))
    return dict(**result, gather=fastest_together(gather), alone=fastest(similarities(batch, batch * world), 1))


def distillation_step() -> Callable[[], Any]:
    """Return a step of the first pair with random weights, as one of several processes."""
    cfg = recipes.compose(PAIR, ['icd'])
    cfg.model.update(teacher_ckpt=None, random_teacher=True, data_preprocessor=cfg.data_preprocessor)
    cfg.model.distiller.icd = dict(type='ICDLoss', gather_distributed=True)
    with DefaultScope.overwrite_default_scope('mmpretrain'), silent():
        algorithm = MODELS.build(cfg.model).train()
    wrapped = DistributedDataParallel(algorithm, forward_sync_buffers=False)
    samples = [DataSample().set_gt_label(i) for i in range(ROWS)]
    images = torch.randn(ROWS, 3, 224, 224)
    return lambda: algorithm.parse_losses(wrapped(images, samples, mode='loss'))[0].backward()


def process(rank: int, world: int, store: str, results: Queue) -> None:
    """Measure what several processes exchange; the first one reports."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=world)
    found: dict[str, Any] = dict(world=world, all_reduce=[], loss=[])
    gathered(8)
    for number in (10**4, 10**5, 10**6, 4 * 10**6):
        seconds = fastest_together(partial(dist.all_reduce, torch.zeros(number)), 10)
        found['all_reduce'].append(dict(bytes=4 * number, seconds=seconds))
    for batch in BATCHES:
        if MATRICES * 4 * batch**2 * world**2 <= MOST_MEMORY:
            found['loss'].append(gathered(batch))
    if world <= 4:
        run = distillation_step()
        found |= dict(step=fastest_together(run, 2), step_cpu=fastest(run, 1))
    if rank == 0:
        results.put(found)
    dist.destroy_process_group()


def processes(world: int) -> dict[str, Any]:
    """Measure with some processes on this machine."""
    context = torch.multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory() as folder:
        results = context.SimpleQueue()
        torch.multiprocessing.spawn(process, (world, f'{folder}/store', results), world)
        return results.get()


def images() -> dict[str, float]:
    """Measure the reading and augmenting of JPEGs of the usual size, and what the training process does to get them."""
    cfg = recipes.compose(PAIR, ['icd'])
    with tempfile.TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope('mmpretrain'):
        sizes = []
        for number, pixels in enumerate(load_sample_images().images):
            content = io.BytesIO()
            Image.fromarray(pixels).resize((500, 375), Image.LANCZOS).save(content, 'JPEG', quality=98)
            Path(folder, 'class').mkdir(exist_ok=True)
            Path(folder, 'class', f'{number}.jpg').write_bytes(content.getvalue())
            sizes.append(len(content.getvalue()))
        dataset = DATASETS.build(
            dict(type='CustomDataset', data_prefix=folder, pipeline=cfg.train_dataloader.dataset.pipeline)
        )
        read = lambda: [dataset[i % len(dataset)] for i in range(100)]  # noqa: E731
        seconds = fastest(read, 5) / 100
        one = dataset[0]
    loader = DataLoader([one] * 20 * 64, 64, num_workers=1, collate_fn=pseudo_collate)
    batches = iter(loader)
    time.sleep(5)  # the worker has two batches ready
    received = fastest(lambda: next(batches), 2) / 64
    return dict(jpeg_bytes=sum(sizes) / len(sizes), seconds=seconds, received=received)


def cache() -> dict[str, float]:
    """Measure the reading of a teacher's stored outputs, from the memory of the system."""
    layout = RowLayout({'pooled': Field((2048,), 'float32'), 'logits': Field((1000,), 'float32')})
    with tempfile.TemporaryDirectory() as folder:
        rows = np.arange(20_000)
        store = OutputStore(Path(folder, 'cache'), len(rows), layout.row_bytes, {}, 10**9)
        for part in np.split(rows, 10):
            store.write(part, layout.pack({k: torch.randn(len(part), *f.shape) for k, f in layout.outputs.items()}))
        chosen = np.random.default_rng(0).permutation(rows)[:256]
        seconds = fastest(lambda: layout.unpack(store.read(chosen)[0]), 10) / len(chosen)
    return dict(row_bytes=layout.row_bytes, seconds=seconds)


def measure() -> dict[str, Any]:
    """Measure all parts, each on one core."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, Any] = dict(images=images(), cache=cache(), shares=[], networks={})
    for own, rest in ((256, 256), (1024, 1024), (4096, 4096), (256, 2048), (256, 16384), (1024, 8192), (4096, 32768)):
        run = similarities(own, rest)
        run()
        found['shares'].append(dict(own=own, all=rest, peak=peak(run), seconds=fastest(run)))
    for name, settings in NETWORKS.items():
        found['networks'][name] = network(*settings)
    return {**found, 'processes': [processes(world) for world in (1, 2, 4, 8)]}
