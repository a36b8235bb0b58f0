"""Everything that works around the stack, one function a break; nothing else in the project does.

Each function says what breaks, where, and until which version; where upstream mends it, delete the function.
``prepare_stack`` runs at ``import icd_mmrazor`` and applies those that concern imports and the loading of files;
``process_group`` is for the tools.
"""

import contextlib
import datetime
import gc
import importlib
import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

PACKAGE = 'icd_mmrazor'
OPENMMLAB_PACKAGES = ('mmengine', 'mmcv', 'mmpretrain')
REMEMBERED_CONFIGS = 8


def prepare_stack() -> None:
    """Check that the stack is installed and make it usable.

    Raises:
        ImportError: Packages of the stack are missing; the message says what to install.
    """
    require_stack()
    provide_grad_scaler()
    with warnings.catch_warnings(), silenced_onedl_notice():
        warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
        import_mmrazor()
        importlib.import_module('mmpretrain.utils').register_all_modules(init_default_scope=False)
    mend_package_lookup()
    register_config_package()
    load_checkpoints_as_plain_weights()
    delete_only_own_checkpoints()
    format_a_config_once()
    explain_image_folders()
    name_weights_of_wrapped_networks_alike()


def require_stack() -> None:
    """Say in one message what is missing.

    Neither family of the OpenMMLab packages is a hard dependency: both install into the same folders, and a
    dependency on one silently breaks an environment that has the other.

    Raises:
        ImportError: A package of the stack cannot be found.
    """
    required = ('torch', 'torchvision', 'joblib', 'scipy', *OPENMMLAB_PACKAGES, 'mmrazor')
    missing = [name for name in required if importlib.util.find_spec(name) is None]
    if not missing:
        return
    if not set(missing) & set(OPENMMLAB_PACKAGES):
        raise ImportError(
            f'icd_mmrazor needs {", ".join(missing)}, not installed here. Install: pip install {" ".join(missing)}'
        )
    raise ImportError(
        f'icd_mmrazor needs {", ".join(missing)}, not installed here. Install one family of the OpenMMLab packages:\n'
        '  pip install "icd-mmrazor[onedl]"      the maintained forks, Python 3.10 to 3.13\n'
        '  pip install "icd-mmrazor[openmmlab]"  OpenMMLab\'s own last releases\n'
        "(from a clone: pip install '.[onedl]'). Install only one of them: they share their folders."
    )


def provide_grad_scaler() -> None:
    """Give an older torch the name ``torch.amp.GradScaler``.

    Where: onedl-mmengine 0.10.12 imports it; torch has it since 2.3, and the same class as
    ``torch.cuda.amp.GradScaler`` before.
    """
    import torch.amp

    if not hasattr(torch.amp, 'GradScaler'):
        torch.amp.GradScaler = torch.cuda.amp.GradScaler


@contextlib.contextmanager
def silenced_onedl_notice() -> Iterator[None]:
    """Drop the line "Could not import OneDL" that importing the fork's mmpretrain prints on every start.

    Where: onedl-mmpretrain 1.3.6, ``mmpretrain/datasets/__init__.py``: ``print_log`` without a logger prints whatever
    its level. The notice concerns a private dataset service.
    """
    mmengine_logging = importlib.import_module('mmengine.logging')
    print_log = mmengine_logging.print_log

    def without_notice(msg: Any, *args: Any, **kwargs: Any) -> None:
        if msg != 'Could not import OneDL':
            print_log(msg, *args, **kwargs)

    mmengine_logging.print_log = without_notice
    try:
        yield
    finally:
        mmengine_logging.print_log = print_log


def import_mmrazor() -> None:
    """Import every module of mmrazor past its two version gates.

    * mmrazor 1.0.0 asserts ``mmcv <= 2.1.0`` at import. It works with later ones; it sees 2.1.0 while it is imported.
    * mmrazor 1.0.0 with torch >= 2 (its issues 615 and 632): the quantization code imports names that torch 2
      renamed. mmrazor guards it by ``mmrazor.digit_version(torch.__version__) >= 1.13`` and has placeholders for an
      older torch, so that one question is answered with an older version during the import, and truly afterwards.
      Only mmrazor's quantization is unavailable then.

    There is no later mmrazor.
    """
    import mmcv
    import torch
    from mmengine.utils import digit_version

    true_version = mmcv.__version__
    if digit_version(true_version) > digit_version('2.1.0'):
        mmcv.__version__ = '2.1.0'
    try:
        import mmrazor
    finally:
        mmcv.__version__ = true_version

    importing = True

    def digit_version_while_importing(version: str, *args: Any, **kwargs: Any) -> tuple:
        if importing and version == torch.__version__:
            version = '1.12.0'
        return digit_version(version, *args, **kwargs)

    mmrazor.digit_version = digit_version_while_importing
    try:
        importlib.import_module('mmrazor.utils').register_all_modules(init_default_scope=False)
    finally:
        importing = False
        mmrazor.digit_version = digit_version


def mend_package_lookup() -> None:
    """Let ``_base_ = ['mmpretrain::...']`` find packages without ``pkg_resources``.

    Where: mmengine <= 0.10.7, ``mmengine/utils/package_utils.py``, with setuptools >= 82, which no longer ships
    ``pkg_resources``. Mended in onedl-mmengine.
    """
    package_utils = importlib.import_module('mmengine.utils.package_utils')
    try:
        package_utils.is_installed('mmengine')
        return
    except ModuleNotFoundError:
        pass

    def is_installed(package: str) -> bool:
        return importlib.util.find_spec(package) is not None or bool(_distribution(package))

    def get_installed_path(package: str) -> str:
        spec = importlib.util.find_spec(package)
        if spec is None and _distribution(package):
            top_level = (_distribution(package).read_text('top_level.txt') or '').split()
            spec = importlib.util.find_spec(top_level[0]) if top_level else None
        if spec is None or not spec.submodule_search_locations:
            raise importlib.metadata.PackageNotFoundError(package)
        return spec.submodule_search_locations[0]

    for name in ('mmengine.utils', 'mmengine.utils.package_utils', 'mmengine.config.config', 'mmengine.hub.hub'):
        module = importlib.import_module(name)
        for function in (is_installed, get_installed_path):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def _distribution(package: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def register_config_package() -> None:
    """Let ``_base_ = ['icd_mmrazor::...']`` name our configs.

    Where: mmengine, both families, ``mmengine/config/utils.py``: the packages that configs can be inherited from are
    a fixed table.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE[PACKAGE] = PACKAGE


def load_checkpoints_as_plain_weights() -> None:
    """Make every loading of a checkpoint by mmengine (``--resume``, ``load_from``, ``init_cfg``) refuse code.

    Where: onedl-mmengine 0.10.12 falls back to an arbitrary pickle when a file does not load with
    ``weights_only=True``; mmengine 0.10.7 leaves the choice to torch, so that before torch 2.6 everything is
    unpickled and since then its own checkpoints do not load; both load downloads as arbitrary pickles, and both run
    a checkpoint's ``meta['config']`` as Python when they resume, to compare numbers of GPUs that no version writes
    any more.
    """
    import mmengine.runner.checkpoint as mmengine_checkpoint

    from icd_mmrazor.utils.checkpoints import read_checkpoint

    def load_from_local(filename: str, map_location: Any = None) -> dict:
        checkpoint = read_checkpoint(filename, map_location)
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        return checkpoint

    def load_from_http(filename: str, map_location: Any = None, model_dir: Any = None, progress: Any = None) -> dict:  # noqa: ARG001
        return load_from_local(filename, map_location)

    # the schemes torchvision://, open-mmlab:// and others call it by its name
    mmengine_checkpoint.load_from_http = load_from_http
    loader = mmengine_checkpoint.CheckpointLoader
    loader.register_scheme(prefixes='', loader=load_from_local, force=True)
    loader.register_scheme(prefixes=('http://', 'https://'), loader=load_from_http, force=True)


def delete_only_own_checkpoints() -> None:
    """Let a resumed run delete an earlier best checkpoint in its own folder only.

    Where: mmengine, both families, ``CheckpointHook``: the path of the best checkpoint is read from the one that is
    resumed, and whatever lies there, a whole folder too, is deleted when a better one is saved. So the run that was
    resumed in another folder loses its best checkpoint, and a stranger's checkpoint names what it likes.
    """
    from pathlib import Path

    from mmengine.hooks import CheckpointHook

    begin = CheckpointHook.before_train

    def before_train(self: CheckpointHook, runner: Any) -> None:
        """Find out where checkpoints go, and which are there."""
        begin(self, runner)

        def own(path: Any) -> str | None:
            name = Path(str(path)).name
            return self.file_backend.join_path(self.out_dir, name) if name.startswith('best_') else None

        if getattr(self, 'best_ckpt_path', None):
            self.best_ckpt_path = own(self.best_ckpt_path)
        if getattr(self, 'best_ckpt_path_dict', None):
            self.best_ckpt_path_dict = {key: own(path) for key, path in self.best_ckpt_path_dict.items()}

    CheckpointHook.before_train = before_train


def format_a_config_once() -> None:
    """Remember the texts of the last few configs that were formatted.

    Where: mmengine, both families, ``Config.pretty_text``: it runs a formatter, yapf, for every checkpoint, 0.05 s for
    a config of ours and 0.4 s for one with long paths, though those of a run and of its student do not change.
    """
    from mmengine.config import Config

    format_config = Config.pretty_text.fget
    known: dict[str, str] = {}

    def pretty_text(self: Config) -> str:
        """Return the config as Python text."""
        config = f'{self._cfg_dict!r} {getattr(self, "_format_python_code", True)}'
        if config not in known:
            if len(known) >= REMEMBERED_CONFIGS:
                known.clear()
            known[config] = format_config(self)
        return known[config]

    Config.pretty_text = property(pretty_text)


def name_weights_of_wrapped_networks_alike() -> None:
    """Let mmpretrain's wrappers of networks of timm and Hugging Face be a student.

    Where: mmpretrain, both families, ``TimmClassifier`` and ``HuggingFaceClassifier``: their state dict leaves out the
    ``model.`` before each name, in a copy, which torch heeds in the outermost model only. In a distillation the names
    keep it, and loading, which adds it, then finds none: no resuming, no student.
    """
    from mmpretrain.models import HuggingFaceClassifier, TimmClassifier

    def without_model(_: Any, state_dict: dict, prefix: str, local_metadata: dict) -> None:  # noqa: ARG001
        for name in [name for name in state_dict if name.startswith(f'{prefix}model.')]:
            state_dict[prefix + name.removeprefix(f'{prefix}model.')] = state_dict.pop(name)

    for wrapper in (TimmClassifier, HuggingFaceClassifier):
        wrapper._remove_state_dict_prefix = staticmethod(without_model)


def explain_image_folders() -> None:
    """Say what is wrong with a folder of images, and what is expected.

    Where: mmpretrain, both families, ``CustomDataset`` (and ``ImageNet``, which is one): a folder that is missing, or
    has no folder for each class, ends in a stack trace that says neither where it was looked for nor what was found.
    """
    from pathlib import Path

    from mmpretrain.datasets import CustomDataset

    from icd_mmrazor.utils.errors import DatasetError
    from icd_mmrazor.utils.work_dirs import contents

    load = CustomDataset.load_data_list

    def load_data_list(self: CustomDataset) -> list[dict]:
        """Read paths and labels of the images."""
        try:
            return load(self)
        except (OSError, RuntimeError, AssertionError, ValueError) as error:
            folder = Path(self.img_prefix)
            found = f'it holds {contents(folder)}' if folder.is_dir() else 'there is no such folder'
            expected = (
                f'lines "IMAGE LABEL" in {self.ann_file}'
                if self.ann_file
                else f'a folder for each class with its images: {folder}/CLASS/IMAGE{min(self.extensions)}'
            )
            raise DatasetError(
                f'{type(self).__name__}: {folder} (working folder: {Path.cwd()}): {error}. Found: {found}. Expected: '
                f'{expected}. Set data_root and data_prefix of the dataset to where the images are.'
            ) from error

    CustomDataset.load_data_list = load_data_list


def channels_last_is_sound(*networks: Any) -> bool:
    """Return whether networks may be trained with images channels last in memory.

    Where: torch 2.14.1 on a CPU, backward pass of a 1 x 1 convolution with a stride and fewer than 8 input channels,
    channels last: it writes beyond its memory, and the process dies ("free(): invalid next size") or computes nonsense.

    Args:
        *networks: Modules.
    """
    from torch import nn

    if accelerator_available():
        return True
    convolutions = (module for network in networks for module in network.modules() if isinstance(module, nn.Conv2d))
    return not any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels < 8 for c in convolutions)


@contextlib.contextmanager
def allowed_in_checkpoints(also: Sequence[type] = ()) -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read what a training run of mmengine stores beside its weights.

    Where: mmengine, both families: the message hub's state holds ``HistoryBuffer`` objects, numpy arrays and scalars.
    Our own checkpoints are plain (``PlainCheckpointHook``); those of mmpretrain and mmrazor are not. ``getattr``, which
    that state contains, is only ever given a ``HistoryBuffer``'s methods. Before torch 2.6 the functions used
    here do not exist, and such files are refused.

    Args:
        also: More types to allow.

    Yields:
        Nothing; inside, ``torch.load`` allows them.
    """
    import numpy
    import torch
    from mmengine.logging import HistoryBuffer
    from mmengine.utils import digit_version

    if digit_version(torch.__version__) < digit_version('2.6.0'):
        yield
        return

    def history_buffer_method(owner: Any, name: str) -> Any:
        if owner is not HistoryBuffer:
            raise ValueError(f'getattr({owner!r}, {name!r}) in a checkpoint')
        return getattr(owner, name)

    multiarray = getattr(numpy, '_core', None) or numpy.core
    allowed: list[Any] = [
        HistoryBuffer,
        (history_buffer_method, 'builtins.getattr'),
        slice,
        numpy.ndarray,
        numpy.dtype,
        *also,
    ]
    for function in (multiarray.multiarray._reconstruct, multiarray.multiarray.scalar):
        # numpy 2 writes numpy._core, numpy 1 numpy.core
        allowed += [(function, f'{core}.multiarray.{function.__name__}') for core in ('numpy._core', 'numpy.core')]
    allowed += [type(numpy.dtype(code)) for code in ('f4', 'f8', 'i4', 'i8', 'u4')]
    with torch.serialization.safe_globals(allowed):
        yield


def in_mmpretrain_scope(network: Any) -> Any:
    """Let a network's config without a scope be one of mmpretrain's, as it is in mmpretrain.

    Where: mmrazor 1.0.0 builds teacher and student in its own scope, where ``ImageClassifier`` and all its parts are
    unknown unless every one of them names its scope.

    Args:
        network: A config, or a built model.

    Returns:
        The config with ``_scope_='mmpretrain'``, if it names no scope and is of no type of mmrazor's; else the same.
    """
    from mmrazor.registry import MODELS

    if not isinstance(network, dict) or 'type' not in network or '_scope_' in network:
        return network
    name = network['type']
    known = not isinstance(name, str) or (not name.startswith('mmpretrain.') and MODELS.get(name) is not None)
    return network if known else {'_scope_': 'mmpretrain', **network}


def drop_log_noise(logger: logging.Logger) -> None:
    """Keep lines out of a run's log that tell its reader nothing.

    Where: mmengine, both families. ``LoggerHook`` repeats the experiment's name after every epoch, and
    ``CheckpointHook`` warns at every start of mmengine's own old interface, which no user has chosen.

    Args:
        logger: The run's.
    """
    logger.addFilter(_tells_something)


def _tells_something(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(('Exp name: ', '"FileClient" will be', '"HardDiskBackend" is the alias'))


def accelerator_available() -> bool:
    """Return whether mmengine finds a device other than the CPU."""
    from mmengine.device import get_device

    return get_device() != 'cpu'


@contextlib.contextmanager
def process_group(cfg: Any) -> Iterator[None]:
    """Hold the process group of a tool: gloo where there is no GPU, what mmengine starts where there is one.

    Where: mmengine, both families, ``init_dist`` and ``Runner.wrap_model``: without an accelerator
    ``torch.cuda.set_device`` fails, and DDP is given a device number. Both also leave the group to the end of the
    process, where a rank can abort: a thread of gloo that still holds a tensor meets an interpreter that is going
    (torch 2.14, about one run in ten). DDP, in reference cycles, keeps the group's threads alive after it is
    destroyed, so the cycles are collected here. What is built inside must not be referenced outside.

    Args:
        cfg: The run's ``Config``, ``launcher`` set; gets a ``model_wrapper_cfg`` for the CPU.

    Yields:
        Nothing; the group is destroyed at the end.

    Raises:
        SettingError: Another launcher than ``pytorch`` without an accelerator.
    """
    import torch.distributed as dist

    from icd_mmrazor.utils.errors import SettingError

    if cfg.launcher != 'none' and not accelerator_available():
        if cfg.launcher != 'pytorch':
            raise SettingError(
                f"launcher='{cfg.launcher}' needs a GPU and this machine shows none. Start the processes with "
                'tools/dist_train.sh or torchrun (launcher pytorch); on a CPU they talk through gloo.'
            )
        timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        dist.init_process_group('gloo', **({'timeout': datetime.timedelta(seconds=timeout)} if timeout else {}))
        wrapper = dict(broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))
        cfg.model_wrapper_cfg = {'type': 'MMDistributedDataParallel', **wrapper, **cfg.get('model_wrapper_cfg', {})}
        cfg.model_wrapper_cfg.device_ids = None
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
            gc.collect()
