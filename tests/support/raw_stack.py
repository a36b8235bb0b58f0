"""The stack without this package: which of the problems that ``icd_mmrazor`` works around are there.

``python raw_stack.py FOLDER`` tries them one by one in a process that has not imported icd_mmrazor and writes
``FOLDER/breaks.json``: for each function here, in ``raw_mmrazor.py`` and in ``raw_retrieval.py`` whether the problem is
there, or a trace if it could not be tried. Each has the name of its workaround, a function of ``compat`` or one of the
classes that replace mmengine's, followed by two underscores and a part of it if that solves several. They run in the
order they are defined in, those of ``raw_mmrazor.py`` and ``raw_retrieval.py`` first.
"""

import contextlib
import importlib
import json
import os
import pickle
import sys
import threading
import traceback
import warnings
from pathlib import Path
from unittest import mock

import raw_retrieval  # noqa: F401 its problems are listed, too
from raw_mmrazor import BREAKS, raises, try_break


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
def drop_warning_of_hsigmoid(folder: Path) -> bool:
    from mmcv.cnn.bricks import HSigmoid

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        HSigmoid()
    return any('In MMCV v1.4.4' in str(each.message) for each in found)


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
    """A run that resumes at its third iteration loads the batches of the first two."""
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


def saving_best(folder: Path, best: Path | None = None, **settings: object) -> tuple:
    """Return a runner that has trained, and the ``CheckpointHook`` of a run that resumes it; ``best`` is its best."""
    from mmengine.hooks import CheckpointHook

    runner = toy_runner(folder)
    runner.train()
    if best:
        runner.message_hub.update_info('best_ckpt', str(best))
    hook = CheckpointHook(**{'save_best': 'accuracy', 'rule': 'greater', **settings})
    hook.before_train(runner)
    return runner, hook


@try_break
def IntactCheckpointHook__best(folder: Path) -> bool:  # noqa: N802
    runner, hook = saving_best(folder)
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
    other = folder / 'other' / 'thesis.pth'
    other.parent.mkdir()
    other.touch()
    runner, hook = saving_best(folder, other)
    hook.after_val_epoch(runner, {'accuracy': 1.0})
    return not other.exists()


@try_break
def IntactCheckpointHook__published(folder: Path) -> bool:  # noqa: N802
    runner, hook = saving_best(folder, folder / 'best_accuracy_epoch_1.pth', published_keys=['meta'])
    return raises(FileNotFoundError, hook.after_train, runner)


@try_break
def IntactCheckpointHook__metrics(folder: Path) -> bool:  # noqa: N802
    runner, hook = saving_best(folder, save_best='auto', rule=None)
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
def keep_batch_sizes_open(folder: Path) -> bool:
    import torch
    from mmpretrain.models.utils import ShiftWindowMSA

    class Windows(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return ShiftWindowMSA.window_reverse(ShiftWindowMSA.window_partition(images, 4), 8, 8, 4)

    dynamic = {'images': {0: torch.export.Dim('batch')}}
    return raises(Exception, torch.export.export, Windows(), (torch.zeros(2, 8, 8, 1),), dynamic_shapes=dynamic)


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
