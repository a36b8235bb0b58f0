"""The stack without this package: which of the problems that ``icd_mmrazor`` works around are there.

``python raw_stack.py FOLDER`` tries them one by one in a process that has not imported icd_mmrazor and writes
``FOLDER/breaks.json``: for each function here whether the problem is there, or a trace if it could not be tried. Each
has the name of its workaround, a function of ``compat`` or one of the classes that replace mmengine's, followed by two
underscores and a part of it if that solves several. They run in the order they are defined in.
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import pickle
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

BREAKS: dict[str, Callable[[Path], bool]] = {}


def try_break(function: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """List a function that tells whether a break is there; it gets an empty folder."""
    BREAKS[function.__name__] = function
    return function


class Touch:
    """Pickles as the making of a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def hostile_checkpoint(folder: Path) -> Path:
    """Write a checkpoint that makes the file ``trace`` when it is unpickled."""
    import torch

    file = folder / 'hostile.pth'
    torch.save({'state_dict': Touch(folder / 'trace')}, file)
    return file


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
def laid_out(folder: Path) -> bool:
    import torch

    images = torch.zeros(2, 8, 8, 1).permute(0, 3, 1, 2)
    # what follows is channels last, too
    return not torch.nn.functional.conv2d(images.contiguous(), torch.ones(4, 1, 3, 3)).is_contiguous()


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
def read_candidates_as_literals(folder: Path) -> bool:
    from mmrazor.structures import Candidates

    candidates = Candidates()
    candidates.data = [{f'open({str(folder / "trace")!r}, "w").close()': {}}]
    assert len(candidates.subnets) == 1
    return (folder / 'trace').exists()


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
def load_checkpoints_as_plain_weights__fallback(folder: Path) -> bool:
    from mmengine.runner import CheckpointLoader

    with contextlib.suppress(pickle.UnpicklingError):
        CheckpointLoader.load_checkpoint(str(hostile_checkpoint(folder)))
    return (folder / 'trace').exists()


@try_break
def load_checkpoints_as_plain_weights__download(folder: Path) -> bool:
    from mmengine.runner.checkpoint import load_from_http

    # a server's answer without a server
    load_from_http(hostile_checkpoint(folder).as_uri(), model_dir=str(folder / 'downloads'), progress=False)
    return (folder / 'trace').exists()


def toy_runner(folder: Path, workers: int = 0, **settings: object) -> 'mmengine.runner.Runner':  # noqa: F821
    """Return a runner of two epochs with mmengine's own hooks; what it loads is listed in ``loaded``."""
    import torch
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Toy(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)

        def forward(self, inputs: torch.Tensor, mode: str) -> dict:
            return {'loss': self.linear(inputs).sum()}

    class Ones(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> dict:
            with (folder / 'loaded').open('a') as file:
                file.write(f'{index} ')
            return {'inputs': torch.ones(1)}

    return Runner(
        model=Toy(),
        work_dir=str(folder),
        train_dataloader=torch.utils.data.DataLoader(Ones(), num_workers=workers),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        experiment_name=folder.name,
        **{'train_cfg': dict(by_epoch=True, max_epochs=2), **settings},
    )


@try_break
def drop_log_noise(folder: Path) -> bool:
    toy_runner(folder).train()
    (log,) = folder.glob('*/*.log')
    noise = ('Exp name: ', '"FileClient" will be', '"HardDiskBackend" is the alias')
    return all(line in log.read_text() for line in noise)


@try_break
def IntactCheckpointHook__plain(folder: Path) -> bool:  # noqa: N802
    import torch

    toy_runner(folder).train()
    return raises(pickle.UnpicklingError, torch.load, folder / 'epoch_2.pth', weights_only=True)


@try_break
def load_checkpoints_as_plain_weights__own(folder: Path) -> bool:
    toy_runner(folder).train()
    return raises(pickle.UnpicklingError, toy_runner(folder).resume, str(folder / 'epoch_2.pth'))


@try_break
def load_checkpoints_as_plain_weights__config(folder: Path) -> bool:
    import torch

    runner = toy_runner(folder)
    meta = {'epoch': 1, 'iter': 1, 'config': f'open({str(folder / "trace")!r}, "w").close()'}
    torch.save({'state_dict': runner.model.state_dict(), 'meta': meta}, folder / 'hostile.pth')
    # the rest of the checkpoint is missing
    with contextlib.suppress(KeyError):
        runner.resume(str(folder / 'hostile.pth'))
    return (folder / 'trace').exists()


@try_break
def read_files_as_plain_values__pickle(folder: Path) -> bool:
    import mmengine

    (folder / 'annotations.pkl').write_bytes(pickle.dumps(Touch(folder / 'trace')))
    mmengine.load(folder / 'annotations.pkl')
    return (folder / 'trace').exists()


@try_break
def read_files_as_plain_values__yaml(folder: Path) -> bool:
    import mmengine

    (folder / 'subnet.yaml').write_text(f'!!python/object/apply:os.mkdir ["{folder / "trace"}"]')
    mmengine.load(folder / 'subnet.yaml')
    return (folder / 'trace').exists()


@try_break
def refuse_pickles_of_timm(folder: Path) -> bool:
    import torch
    from mmpretrain.models import TimmClassifier

    # what it says of the file's weights is another matter
    with contextlib.suppress(Exception):
        TimmClassifier('resnet10t', loss=torch.nn.Identity(), checkpoint_path=str(hostile_checkpoint(folder)))
    return (folder / 'trace').exists()


@try_break
def take_batches_from(folder: Path) -> bool:
    """A run that goes on from its third iteration loads the batches of the first two."""
    runner = toy_runner(folder, workers=1, train_cfg=dict(by_epoch=False, max_iters=4))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._train_loop._iter = 2
    runner.train()
    return (folder / 'loaded').read_text().startswith('0 1 2 3')


@try_break
def AtomicBackend(folder: Path) -> bool:  # noqa: N802
    from mmengine.fileio import LocalBackend

    file, same = folder / 'file', folder / 'same'
    file.write_bytes(b'old')
    os.link(file, same)
    LocalBackend().put(b'new', file)
    return same.read_bytes() == b'new'


@try_break
def IntactCheckpointHook__oldest(folder: Path) -> bool:  # noqa: N802
    hook = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
    runner = toy_runner(folder, default_hooks=dict(checkpoint=hook))
    save, there = runner.save_checkpoint, []

    def save_checkpoint(*args: object, **kwargs: object) -> None:
        there.append((folder / 'epoch_1.pth').exists())
        save(*args, **kwargs)

    with mock.patch.object(runner, 'save_checkpoint', save_checkpoint):
        runner.train()
    return there == [False, False]


@try_break
def IntactCheckpointHook__best(folder: Path) -> bool:  # noqa: N802
    from mmengine.hooks import CheckpointHook

    runner, hook = toy_runner(folder), CheckpointHook(save_best='accuracy', rule='greater')
    runner.train()
    hook.before_train(runner)
    hook.after_val_epoch(runner, {'accuracy': 1.0})
    (best,) = folder.glob('best_*')
    with mock.patch.object(runner, 'save_checkpoint') as save:
        save.side_effect = lambda *_, **__: there.append(best.exists())
        there: list[bool] = []
        hook.after_val_epoch(runner, {'accuracy': 2.0})
    return there == [False]


@try_break
def ToolRunner(folder: Path) -> bool:  # noqa: N802
    """A checkpoint is overlooked, one that is not there is taken."""
    from mmengine.runner import find_latest_checkpoint

    (folder / 'epoch_1.pth').touch()
    overlooked = find_latest_checkpoint(str(folder)) is None
    (folder / 'last_checkpoint').write_text('epoch_2.pth')
    return overlooked and find_latest_checkpoint(str(folder)) == 'epoch_2.pth'


@try_break
def IntactCheckpointHook__others(folder: Path) -> bool:  # noqa: N802
    from mmengine.hooks import CheckpointHook

    other = folder / 'other' / 'thesis.pth'
    other.parent.mkdir()
    other.touch()
    runner, hook = toy_runner(folder), CheckpointHook(save_best='accuracy', rule='greater')
    runner.train()
    runner.message_hub.update_info('best_ckpt', str(other))
    hook.before_train(runner)
    hook.after_val_epoch(runner, {'accuracy': 1.0})
    return not other.exists()


@try_break
def IntactCheckpointHook__published(folder: Path) -> bool:  # noqa: N802
    from mmengine.hooks import CheckpointHook

    runner, hook = toy_runner(folder), CheckpointHook(save_best='accuracy', rule='greater', published_keys=['meta'])
    runner.train()
    runner.message_hub.update_info('best_ckpt', str(folder / 'best_accuracy_epoch_1.pth'))
    hook.before_train(runner)
    return raises(FileNotFoundError, hook.after_train, runner)


@try_break
def IntactCheckpointHook__metrics(folder: Path) -> bool:  # noqa: N802
    from mmengine.hooks import CheckpointHook

    runner, hook = toy_runner(folder), CheckpointHook(save_best='auto')
    runner.train()
    hook.before_train(runner)
    return raises(ValueError, hook.after_val_epoch, runner, {'matrix': [[1]], 'accuracy': 1.0})


@try_break
def format_a_config_once(folder: Path) -> bool:
    from mmengine.config import Config
    from yapf.yapflib import yapf_api

    cfg, formatter = Config(dict(a=1)), mock.Mock(wraps=yapf_api.FormatCode)
    # upstream imports it with its module, the fork when it is called
    with (
        mock.patch.object(yapf_api, 'FormatCode', formatter),
        mock.patch('mmengine.config.config.FormatCode', formatter, create=True),
    ):
        assert cfg.pretty_text == cfg.pretty_text
    return formatter.call_count == 2


@try_break
def format_a_config_once__infinity(folder: Path) -> bool:
    from mmengine.config import Config

    text = Config(dict(a=float('inf'))).pretty_text
    return raises(NameError, Config.fromstring, text, '.py')


@try_break
def current_iteration(folder: Path) -> bool:
    """A thread waits for a lock that an error has left behind."""
    from mmengine.logging import MessageHub
    from mmengine.utils import manager

    assert raises(AssertionError, MessageHub.get_instance, 1)
    thread = threading.Thread(target=MessageHub.get_current_instance)
    thread.start()
    thread.join(0.5)
    waits = thread.is_alive()
    if waits:
        manager._lock.release()
    thread.join()
    return waits


@try_break
def explain_images(folder: Path) -> bool:
    from mmcv.transforms import LoadImageFromFile

    (folder / 'image.png').touch()
    try:
        LoadImageFromFile().transform({'img_path': str(folder / 'image.png')})
    except Exception as error:
        return str(folder / 'image.png') not in str(error)
    return False


@try_break
def explained_settings(folder: Path) -> bool:
    from mmengine.registry import HOOKS

    try:
        HOOKS.build(dict(type='CheckpointHok'))
    except KeyError as error:
        return 'CheckpointHook' not in str(error)
    return False


@try_break
def explain_image_folders(folder: Path) -> bool:
    """Neither which folder of the working folder was meant, nor the layout that is expected."""
    from mmpretrain.datasets import CustomDataset

    try:
        CustomDataset(data_root='absent', pipeline=[])
    except Exception as error:
        return str(Path.cwd()) not in str(error) and 'class' not in str(error).lower()
    return False


@try_break
def name_weights_of_wrapped_networks_alike(folder: Path) -> bool:
    import torch
    from mmpretrain.models import TimmClassifier

    network = torch.nn.ModuleDict({'student': TimmClassifier('resnet10t', loss=torch.nn.Identity())})
    return raises(RuntimeError, network.load_state_dict, network.state_dict())


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
def load_own_checkpoints(folder: Path) -> bool:
    import torch
    from mmengine.logging import HistoryBuffer

    torch.save(HistoryBuffer([1.0], [1]), folder / 'history.pth')
    return raises(pickle.UnpicklingError, torch.load, folder / 'history.pth')


@try_break
def keep_layout_when_compiled(folder: Path) -> bool:
    """It is laid out otherwise; channels_last_is_sound has what comes of that."""
    return importlib.import_module('torch._inductor.config').layout_optimization


@try_break
def compile_in_a_sound_layout(folder: Path) -> bool:
    return keep_layout_when_compiled(folder)


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


def main() -> None:
    # once, for the processes that are forked, too
    importlib.import_module('torch')
    folder, tried = Path(sys.argv[1]).resolve(), {}
    for name, function in BREAKS.items():
        (folder / name).mkdir()
        try:
            tried[name] = function(folder / name)
        except Exception:
            tried[name] = traceback.format_exc()
    assert 'icd_mmrazor' not in sys.modules
    (folder / 'breaks.json').write_text(json.dumps(tried, indent=1))


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main()
