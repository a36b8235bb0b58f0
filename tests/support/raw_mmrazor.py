"""The stack without this package, first part: torch, its processes, importing mmrazor, and mmrazor itself.

``raw_stack.py`` has the rest, and runs all.
"""

import contextlib
import importlib
import io
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

BREAKS: dict[str, Callable[[Path], bool]] = {}


def try_break(function: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """List a function that tells whether a break is there; it gets an empty folder."""
    BREAKS[function.__name__] = function
    return function


def raises(expected: type[Exception], function: Callable, *args: object, **kwargs: object) -> bool:
    """Return whether a call raises an exception; others pass."""
    try:
        function(*args, **kwargs)
    except expected:
        return True
    return False


def convolve(memory_format: str) -> 'torch.Tensor':  # noqa: F821
    """Return the gradient of the weights of a narrow strided convolution."""
    import torch

    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4, 8, 1, stride=2).to(memory_format=getattr(torch, memory_format))
    images = torch.randn(16, 4, 32, 32).contiguous(memory_format=getattr(torch, memory_format)).requires_grad_()
    convolution(images).square().sum().backward()
    return convolution.weight.grad.contiguous()


def convolve_repeatedly() -> None:
    import torch

    expected = convolve('contiguous_format')
    for _ in range(30):
        torch.testing.assert_close(convolve('channels_last'), expected, rtol=1e-3, atol=1e-3)


@try_break
def channels_last_is_sound(folder: Path) -> bool:
    """In a process that may die of it."""
    process = multiprocessing.get_context('fork').Process(target=convolve_repeatedly)
    process.start()
    process.join()
    return process.exitcode != 0


@try_break
def flattens_by_view(folder: Path) -> bool:
    import torch
    from mmpretrain.models.backbones import AlexNet

    images = torch.zeros(2, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    return raises(RuntimeError, AlexNet(num_classes=2).to(memory_format=torch.channels_last), images)


@try_break
def laid_out(folder: Path) -> bool:
    import torch

    images = torch.zeros(2, 8, 8, 1).permute(0, 3, 1, 2)
    # what follows is channels last, too
    return not torch.nn.functional.conv2d(images.contiguous(), torch.ones(4, 1, 3, 3)).is_contiguous()


@try_break
def keep_layout_when_compiled(folder: Path) -> bool:
    """It is laid out otherwise; channels_last_is_sound has what comes of that."""
    return importlib.import_module('torch._inductor.config').layout_optimization


@try_break
def compile_in_a_sound_layout(folder: Path) -> bool:
    return keep_layout_when_compiled(folder)


def end_of_a_neighbour(rank: int, folder: Path) -> None:
    """Let rank 1 end, and write what rank 0 then gets."""
    import torch
    import torch.distributed as dist

    dist.init_process_group('gloo', init_method=(folder / 'store').as_uri(), rank=rank, world_size=2)
    dist.barrier()
    if rank == 1:
        os._exit(1)
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError as error:
        special = isinstance(error, dist.DistError)
        (folder / 'error').write_text(f'{"special" if special else "plain"}: {error}')


@try_break
def lost_connection(folder: Path) -> bool:
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=end_of_a_neighbour, args=(rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    error = (folder / 'error').read_text()
    return error.startswith('plain') and 'gloo/transport/' in error


def start_group(rank: int, folder: Path) -> None:
    """Write what the start of a group ends in."""
    import datetime

    import torch.distributed as dist

    try:
        address, timeout = (folder / 'store').as_uri(), datetime.timedelta(seconds=3)
        dist.init_process_group('gloo', init_method=address, timeout=timeout, rank=rank, world_size=2)
    except Exception as error:
        (folder / 'error').write_text(f'{type(error).__name__}: {error}')


@try_break
def failed_to_connect(folder: Path) -> bool:
    """Rank 1 has written its address and is killed."""
    context = multiprocessing.get_context('fork')
    there, late = (context.Process(target=start_group, args=(rank, folder)) for rank in (1, 0))
    there.start()
    while not (folder / 'store').exists() or b'default_pg' not in (folder / 'store').read_bytes():
        time.sleep(0.1)
    there.kill()
    there.join()
    late.start()
    late.join()
    error = (folder / 'error').read_text()
    return error.startswith('RuntimeError: ') and 'connectFullMesh failed' in error


@try_break
def forget_earlier_starts(folder: Path) -> bool:
    """What a process leaves in the launcher's store is there at the next start."""
    import torch.distributed as dist

    launcher = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    world = dict(RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(launcher.port))
    stores = []
    with mock.patch.dict(os.environ, world, TORCHELASTIC_USE_AGENT_STORE='True'):
        for start in ('0', '1'):
            os.environ['TORCHELASTIC_RESTART_COUNT'] = start
            stores.append(next(dist.rendezvous('env://'))[0])
    stores[0].set('address', 'of a process that has ended')
    stores[0].get('address')  # answered once it is set
    return stores[1].check(['address'])


@try_break
def process_group(folder: Path) -> bool:
    from mmengine.dist import init_dist

    world = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')
    with mock.patch.dict(os.environ, world):
        # torch's own errors of a machine without a GPU
        return raises((RuntimeError, AssertionError), init_dist, 'pytorch', 'gloo')


@try_break
def limit_images(folder: Path) -> bool:
    """An image of 180 million pixels in a file of 20 kB."""
    import struct
    import zlib

    import cv2
    import numpy as np

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', 20_000, 9_000, 1, 0, 0, 0, 0)
    parts = [chunk(b'IHDR', header), chunk(b'IDAT', zlib.compress(bytes(9_000 * 2_501), 1)), chunk(b'IEND', b'')]
    image = np.frombuffer(b'\x89PNG\r\n\x1a\n' + b''.join(parts), np.uint8)
    return cv2.imdecode(image, cv2.IMREAD_GRAYSCALE) is not None


@try_break
def silenced_onedl_notice(folder: Path) -> bool:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        importlib.import_module('mmpretrain.datasets')
    return 'Could not import OneDL' in printed.getvalue()


@try_break
def import_mmrazor__mmcv(folder: Path) -> bool:
    import mmcv

    there = raises(AssertionError, importlib.import_module, 'mmrazor')
    # past it, for what follows
    with mock.patch.object(mmcv, '__version__', '2.1.0'):
        import mmrazor  # noqa: F401
    return there


@try_break
def import_mmrazor__torch(folder: Path) -> bool:
    import mmrazor
    import torch
    from mmengine.utils import digit_version

    def of_an_older_torch(version: str) -> tuple:
        return digit_version('1.12.0' if version == torch.__version__ else version)

    there = raises(ImportError, importlib.import_module, 'mmrazor.models')
    # past it, for what follows
    with mock.patch.object(mmrazor, 'digit_version', of_an_older_torch):
        importlib.import_module('mmrazor.models')
    return there


@try_break
def import_mmrazor__recursion(folder: Path) -> bool:
    before = sys.getrecursionlimit()
    importlib.import_module('mmrazor.models.task_modules.tracer')
    raised = sys.getrecursionlimit()
    # as it is in a usable stack
    sys.setrecursionlimit(min(before, 1000))
    return raised > 10**6


@try_break
def patch_package_lookup(folder: Path) -> bool:
    from mmengine.utils import is_installed

    return raises(ModuleNotFoundError, is_installed, 'mmengine')


@try_break
def register_config_package(folder: Path) -> bool:
    from mmengine.config import Config

    file = folder / 'config.py'
    file.write_text("_base_ = ['icd_mmrazor::_base_/runtimes/default.py']\n")
    return raises(AssertionError, Config.fromfile, file)


@try_break
def read_candidates_as_literals(folder: Path) -> bool:
    from mmrazor.structures import Candidates

    candidates = Candidates()
    candidates.data = [{f'open({str(folder / "trace")!r}, "w").close()': {}}]
    assert len(candidates.subnets) == 1
    return (folder / 'trace').exists()


def changed_record(source: str, forward: Callable, replace: Callable = lambda network: network) -> bool:
    """Return whether a recorder has something else than a network of one module computed there."""
    import torch
    from mmrazor.models.task_modules import ModuleOutputsRecorder

    network = torch.nn.Sequential(torch.nn.BatchNorm2d(1))
    recorder = ModuleOutputsRecorder(source)
    recorder.initialize(network)
    network = replace(network)
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
    with recorder:
        forward(network[0](images))
    return not recorder.data_buffer or recorder.data_buffer[0].min().item() >= 0


@try_break
def switch_all_inplace_off(folder: Path) -> bool:
    import torch
    from mmengine.model import BaseModel
    from mmrazor.models.algorithms import BaseAlgorithm

    class Network(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.relu = torch.nn.ReLU(inplace=True)

        def forward(self) -> None:
            pass

    return BaseAlgorithm(Network()).architecture.relu.inplace


@try_break
def record_what_modules_compute(folder: Path) -> bool:
    return changed_record('0', lambda x: x.relu_())


@try_break
def record_what_is_there(folder: Path) -> bool:
    import torch

    return changed_record('0', lambda x: x, torch.nn.SyncBatchNorm.convert_sync_batchnorm)


@try_break
def make_sequences_dynamic(folder: Path) -> bool:
    import torch
    from mmengine.model import Sequential
    from mmrazor.models.architectures.dynamic_ops import DynamicSequential

    return raises(TypeError, DynamicSequential.convert_from, Sequential(torch.nn.ReLU()))


@try_break
def find_soft_cross_entropy(folder: Path) -> bool:
    import torch
    from mmrazor.models.losses import KDSoftCELoss

    return raises(TypeError, KDSoftCELoss(), torch.zeros(1, 2), torch.zeros(1, 2))


@try_break
def validate_whatever_is_predicted(folder: Path) -> bool:
    from mmengine.runner.loops import _update_losses

    return raises(KeyError, _update_losses, {'acc': 1}, {})


@try_break
def name_weights_of_wrapped_networks_alike(folder: Path) -> bool:
    import torch
    from mmpretrain.models import TimmClassifier

    network = torch.nn.ModuleDict({'student': TimmClassifier('resnet10t', loss=torch.nn.Identity())})
    return raises(RuntimeError, network.load_state_dict, network.state_dict())


@try_break
def let_lamb_train_scalars(folder: Path) -> bool:
    import torch
    from mmpretrain.engine.optimizers import Lamb

    scalar = torch.nn.Parameter(torch.tensor(1.0))
    scalar.grad = torch.tensor(1.0)
    return raises(RuntimeError, Lamb([scalar]).step)


@try_break
def load_own_checkpoints(folder: Path) -> bool:
    import torch
    from mmengine.logging import HistoryBuffer

    torch.save(HistoryBuffer([1.0], [1]), folder / 'history.pth')
    return raises(pickle.UnpicklingError, torch.load, folder / 'history.pth')
