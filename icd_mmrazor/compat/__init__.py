"""Everything that works around the stack, one function a break; nothing else in the project does.

Each function says what breaks, where, and until which version; where upstream mends it, delete the function.
``prepare_stack`` runs at ``import icd_mmrazor`` and applies those that concern imports and the loading of files;
``process_group`` is for the tools.
"""

import contextlib
import datetime
import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

PACKAGE = 'icd_mmrazor'
OPENMMLAB_PACKAGES = ('mmengine', 'mmcv', 'mmpretrain')
REMEMBERED_CONFIGS = 8
REPLACED_BEST = 'replaced_best'
BEST_METRIC = 'best_metric'
MAX_PIXELS = 178_956_970  # of an image; Pillow's own limit
MIN_TORCH = (2, 10)
# seconds
WATCHDOGS_LEAD = 60


def prepare_stack() -> None:
    """Check that the stack is installed and make it usable.

    Raises:
        ImportError: Packages of the stack are missing; the message says what to install.
    """
    require_stack()
    limit_images()
    with warnings.catch_warnings(), silenced_onedl_notice():
        warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
        import_mmrazor()
        importlib.import_module('mmpretrain.utils').register_all_modules(init_default_scope=False)
    mend_package_lookup()
    register_config_package()
    load_checkpoints_as_plain_weights()
    load_own_checkpoints()
    read_files_as_plain_values()
    refuse_pickles_of_timm()
    delete_only_own_checkpoints()
    publish_only_what_is_there()
    save_best_of_any_metrics()
    write_checkpoints_whole()
    delete_checkpoints_once_replaced()
    resume_from_whole_checkpoints()
    format_a_config_once()
    explain_image_folders()
    explain_images()
    name_weights_of_wrapped_networks_alike()
    explain_settings()
    switch_all_inplace_off()
    record_what_modules_compute()
    record_what_is_there()
    make_sequences_dynamic()
    find_soft_cross_entropy()
    validate_whatever_is_predicted()
    compile_in_a_sound_layout()


def require_stack() -> None:
    """Say in one message what is missing, or too old.

    Neither family of the OpenMMLab packages is a hard dependency: both install into the same folders, and a
    dependency on one silently breaks an environment that has the other.

    Raises:
        ImportError: A package of the stack cannot be found, or torch is older than 2.10.
    """
    required = ('torch', 'torchvision', 'joblib', 'scipy', *OPENMMLAB_PACKAGES, 'mmrazor')
    missing = [name for name in required if importlib.util.find_spec(name) is None]
    if not missing:
        require_torch()
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


def require_torch() -> None:
    """Refuse a torch in which ``torch.load(weights_only=True)`` can be made to run code.

    Where: torch before 2.10 (CVE-2026-24747, GHSA-63cw-57p8-fm3p). pip installs no such version beside this package;
    it can be there by force.

    Raises:
        ImportError: torch is older.
    """
    import torch

    if tuple(map(int, torch.__version__.split('.')[:2])) < MIN_TORCH:
        raise ImportError(
            f'icd_mmrazor needs torch >= {".".join(map(str, MIN_TORCH))}, and torch {torch.__version__} is installed: '
            'there a checkpoint can run code in spite of weights_only=True (CVE-2026-24747). Install: '
            'pip install "torch>=2.10" "torchvision>=0.25"'
        )


def limit_images() -> None:
    """Let OpenCV decode no image that takes gigabytes unpacked, whatever the size of its file.

    Where: OpenCV, through mmcv: its limit is 2^30 pixels (3 GB), Pillow's a sixth of that. It is read when OpenCV is
    imported; whoever sets it keeps what is set.
    """
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))


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
    limit = sys.getrecursionlimit()
    try:
        importlib.import_module('mmrazor.utils').register_all_modules(init_default_scope=False)
    finally:
        importing = False
        mmrazor.digit_version = digit_version
        sys.setrecursionlimit(limit)  # mmrazor lifts it to 2**20


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
    ``weights_only=True``; mmengine 0.10.7 leaves the choice to torch, so that its own checkpoints do not load; both
    load downloads as arbitrary pickles, and both run a checkpoint's ``meta['config']`` as Python when they resume, to
    compare numbers of GPUs that no version writes any more.
    """
    import mmengine.runner.checkpoint as mmengine_checkpoint

    from icd_mmrazor.checkpoints.reading import read_checkpoint

    def load_from_local(filename: Any, map_location: Any = None) -> dict:
        checkpoint = read_checkpoint(filename, map_location)
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        return checkpoint

    def load_from_http(filename: str, map_location: Any = None, model_dir: Any = None, progress: Any = None) -> dict:  # noqa: ARG001
        return load_from_local(filename, map_location)

    def load_from_elsewhere(file: Any, map_location: Any = None, weights_only: Any = None) -> dict:  # noqa: ARG001
        return load_from_local(file, map_location)

    # the schemes torchvision://, open-mmlab:// and others call them by their names; the latter is the fork's alone
    mmengine_checkpoint.load_from_http = load_from_http
    mmengine_checkpoint._safe_torch_load = load_from_elsewhere
    loader = mmengine_checkpoint.CheckpointLoader
    loader.register_scheme(prefixes='', loader=load_from_local, force=True)
    loader.register_scheme(prefixes=('http://', 'https://'), loader=load_from_http, force=True)


def read_files_as_plain_values() -> None:
    """Make ``mmengine.load`` (annotation files, subnets of mmrazor, configs in YAML) refuse code.

    Where: mmengine, both families, ``mmengine/fileio/handlers``: pickles are run, and YAML is read with a loader that
    runs what a ``!!python/object`` tag names. What mmengine's processes tell each other it unpickles elsewhere.
    """
    from mmengine.fileio.handlers import PickleHandler, YamlHandler

    from icd_mmrazor.checkpoints.plain_files import read_pickle, read_yaml

    PickleHandler.load_from_fileobj = staticmethod(read_pickle)
    YamlHandler.load_from_fileobj = staticmethod(read_yaml)


def refuse_pickles_of_timm() -> None:
    """Let timm read a ``checkpoint_path`` of a config only if it is a plain weights file.

    Where: mmpretrain, both families, ``TIMMBackbone`` and ``TimmClassifier``: they hand the path to timm, which
    unpickles it (1.0.20; 1.0.26 no longer does).
    """
    from mmpretrain.models import TIMMBackbone, TimmClassifier

    from icd_mmrazor.checkpoints.reading import read_checkpoint

    def of_plain_weights(build: Any) -> Any:
        @functools.wraps(build)
        def __init__(self: Any, *args: Any, checkpoint_path: str = '', **kwargs: Any) -> None:  # noqa: N807
            if checkpoint_path:
                read_checkpoint(checkpoint_path)
                kwargs['checkpoint_path'] = checkpoint_path
            build(self, *args, **kwargs)

        return __init__

    for wrapper in (TIMMBackbone, TimmClassifier):
        wrapper.__init__ = of_plain_weights(wrapper.__init__)


def delete_only_own_checkpoints() -> None:
    """Let a resumed run delete an earlier best checkpoint in its own folder only.

    Where: mmengine, both families, ``CheckpointHook``: the path of the best checkpoint is read from the one that is
    resumed, and whatever lies there, a whole folder too, is deleted when a better one is saved. So the run that was
    resumed in another folder loses its best checkpoint, and a stranger's checkpoint names what it likes. The hook knows
    the best checkpoint only if it lies in its own folder; where the earlier one is stays in the message hub.
    """

    def forget_others(hook: Any, runner: Any) -> None:  # noqa: ARG001
        def own(path: Any) -> str | None:
            file = _own_best_checkpoint(hook, path)
            return file if file and hook.file_backend.exists(file) else None

        if getattr(hook, 'best_ckpt_path', None):
            hook.best_ckpt_path = own(hook.best_ckpt_path)
        if getattr(hook, 'best_ckpt_path_dict', None):
            hook.best_ckpt_path_dict = {key: own(path) for key, path in hook.best_ckpt_path_dict.items()}

    _once_checkpoints_are_found(forget_others)


def _once_checkpoints_are_found(act: Callable[[Any, Any], None]) -> None:
    # more than one mend goes on where CheckpointHook.before_train ends
    from mmengine.hooks import CheckpointHook

    begin = CheckpointHook.before_train

    def before_train(self: CheckpointHook, runner: Any) -> None:
        """Find out where checkpoints go, and which are there."""
        begin(self, runner)
        act(self, runner)

    CheckpointHook.before_train = before_train


def _own_best_checkpoint(hook: Any, path: Any) -> str | None:
    from pathlib import Path

    name = Path(str(path)).name
    return hook.file_backend.join_path(hook.out_dir, name) if name.startswith('best_') else None


def publish_only_what_is_there() -> None:
    """Let a finished training not end in an error because one of the checkpoints to publish does not exist.

    Where: mmengine, both families, ``CheckpointHook.after_train`` (``published_keys``): there is none where a run was
    resumed in another folder, where a metric has never had a best value, and where somebody has deleted it.
    """
    from mmengine.hooks import CheckpointHook

    publish = CheckpointHook._publish_model

    def publish_model(self: CheckpointHook, runner: Any, ckpt_path: str | None) -> None:
        """Write a checkpoint with ``published_keys`` alone."""
        if ckpt_path and self.file_backend.exists(ckpt_path):
            publish(self, runner, ckpt_path)
        else:
            what = f'{ckpt_path} is not there' if ckpt_path else 'this run has no best checkpoint of one of its metrics'
            runner.logger.warning(f'CheckpointHook: {what}, so it is not published.')

    CheckpointHook._publish_model = publish_model


def save_best_of_any_metrics() -> None:
    """Let no kind of metric end a training because the best checkpoint is looked for.

    Where: mmengine, both families, ``CheckpointHook._save_best_checkpoint``: with ``save_best='auto'`` the first metric
    may be a tensor, or one without a known rule ("Cannot infer the rule"); a named one may be missing, or no number;
    an array of one element cannot be written into the log.
    """
    from weakref import WeakSet

    from mmengine.hooks import CheckpointHook

    from icd_mmrazor.engine.metrics import best_metric, numbers_in

    save_best = CheckpointHook._save_best_checkpoint
    told: WeakSet = WeakSet()

    def tell(hook: CheckpointHook, runner: Any, message: str) -> None:
        if hook not in told:
            told.add(hook)
            runner.logger.warning(f'CheckpointHook: {message}')

    def save_best_checkpoint(self: CheckpointHook, runner: Any, metrics: dict) -> None:
        """Save the best checkpoint, if this is it."""
        if not self.save_best:
            return
        numbers, listed = numbers_in(metrics), ', '.join(metrics)
        if 'auto' in self.key_indicators:
            # a resumed run continues with what was chosen
            before = runner.message_hub.get_info(BEST_METRIC)
            chosen = best_metric(self, sorted(numbers, key=lambda name: name != before))
            if chosen is None:
                tell(self, runner, f"save_best='auto' finds no number whose rule is known in {listed}: none is saved.")
                return
            runner.message_hub.update_info(BEST_METRIC, chosen)
            self._init_rule(self.rules, [chosen])
        missing = [name for name in self.key_indicators if name not in numbers]
        if missing:
            tell(self, runner, f'save_best={", ".join(missing)} is not a number of a validation with {listed}.')
        save_best(self, runner, {**numbers, **dict.fromkeys(missing)})

    CheckpointHook._save_best_checkpoint = save_best_checkpoint


def write_checkpoints_whole() -> None:
    """Write what mmengine stores to a temporary file that is then renamed; remove what a killed run left of them.

    Where: mmengine, both families, ``LocalBackend.put``: it writes in place, so that a run that is killed, or a disk
    that is full, leaves half a checkpoint, in place of a whole one where the name is the same.
    """
    from pathlib import Path

    from mmengine.dist import is_main_process
    from mmengine.fileio import LocalBackend

    from icd_mmrazor.checkpoints.writing import remove_abandoned, write_checkpoint_file

    def put(self: LocalBackend, obj: bytes, filepath: str | Path) -> None:  # noqa: ARG001
        """Write bytes to a file."""
        write_checkpoint_file(obj, filepath)

    def remove_halves(hook: Any, runner: Any) -> None:
        if is_main_process():
            for folder in {runner.work_dir, hook.out_dir}:
                for file in remove_abandoned(Path(folder)):
                    runner.logger.info(f'{file}, which a killed process left half written, is removed.')

    LocalBackend.put = put
    _once_checkpoints_are_found(remove_halves)


def delete_checkpoints_once_replaced() -> None:
    """Delete an old checkpoint after the new one is written, and write ``last_checkpoint`` whole.

    Where: mmengine, both families, ``CheckpointHook``: the oldest of ``max_keep_ckpts`` and the previous best one are
    deleted first. A run that is killed in between has lost them, with ``max_keep_ckpts=1`` all there is.
    A checkpoint names itself, those that its run keeps, and the best one that it replaces; one that still names the
    file to delete has the next run delete it at its start.
    """
    from collections import deque
    from pathlib import Path

    from mmengine.dist import is_main_process
    from mmengine.hooks import CheckpointHook

    from icd_mmrazor.checkpoints.writing import write_checkpoint_file

    def delete(self: CheckpointHook, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            # of deepspeed
            self.file_backend.rmtree(path)

    def save_with_step(self: CheckpointHook, runner: Any, step: int, meta: dict) -> None:
        kept = getattr(self, 'keep_ckpt_ids', deque())
        if self.max_keep_ckpts > 0 and step not in kept:
            kept = deque([*kept, step])
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_checkpoint_file(self.last_ckpt, Path(runner.work_dir, 'last_checkpoint'))
        if self.max_keep_ckpts > 0:
            while len(kept) > self.max_keep_ckpts:
                old = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(kept.popleft()))
                if is_main_process():
                    delete(self, old)
            self.keep_ckpt_ids = kept
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))

    save_best = CheckpointHook._save_best_checkpoint

    def best_paths(self: CheckpointHook) -> tuple[dict[str, Any], dict[str, str | None]]:
        single = 'best_ckpt_path' in vars(self)
        paths = vars(self) if single else getattr(self, 'best_ckpt_path_dict', {})
        return paths, {name: paths[name] for name in (['best_ckpt_path'] if single else paths)}

    def delete_replaced(hook: CheckpointHook, runner: Any) -> None:
        if is_main_process():
            replaced = runner.message_hub.get_info(REPLACED_BEST)
            for path in replaced if isinstance(replaced, list) else ():
                file = _own_best_checkpoint(hook, path)
                if file and file not in best_paths(hook)[1].values():
                    delete(hook, file)

    def save_best_checkpoint(self: CheckpointHook, runner: Any, metrics: dict) -> None:
        paths, previous = best_paths(self)
        # for the run that goes on from what is saved now
        runner.message_hub.update_info(REPLACED_BEST, [Path(path).name for path in previous.values() if path])
        # what it does not know of it does not delete
        paths.update(dict.fromkeys(previous))
        save_best(self, runner, metrics)
        for name, path in previous.items():
            if not paths[name]:
                paths[name] = path
            elif path and path != paths[name] and is_main_process():
                delete(self, path)
                runner.logger.info(f'The previous best checkpoint {path} is removed')

    _once_checkpoints_are_found(delete_replaced)
    CheckpointHook._save_checkpoint_with_step = save_with_step
    CheckpointHook._save_best_checkpoint = save_best_checkpoint


def resume_from_whole_checkpoints() -> None:
    """Let a run be resumed from a checkpoint that is whole, and say which one where that asked for is damaged.

    Where: mmengine, both families, ``find_latest_checkpoint``: it takes what the file ``last_checkpoint`` says, which
    may be empty, damaged, or in a folder that was moved, and where there is no such file begins the training anew.
    """
    import mmengine.runner.runner as mmengine_runner

    from icd_mmrazor.checkpoints.resuming import checkpoint_to_resume, explain_damage
    from icd_mmrazor.errors import CheckpointError

    resume = mmengine_runner.Runner.resume

    def resume_or_explain(self: mmengine_runner.Runner, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint."""
        try:
            resume(self, filename, *args, **kwargs)
        except CheckpointError as error:
            raise explain_damage(filename, error) from error

    mmengine_runner.find_latest_checkpoint = checkpoint_to_resume
    mmengine_runner.Runner.resume = resume_or_explain


def format_a_config_once() -> None:
    """Remember the texts of the last few configs that were formatted, and write infinity so that Python reads it.

    Where: mmengine, both families, ``Config.pretty_text``: it runs a formatter, yapf, for every checkpoint, 0.05 s for
    a config of ours and 0.4 s for one with long paths, though those of a run and of its student do not change. Infinity
    it writes as ``inf``, a name that a config file does not know.
    """
    from mmengine.config import Config

    from icd_mmrazor.configuration.stored import with_infinity_as_number

    format_config = Config.pretty_text.fget
    known: dict[str, str] = {}

    def pretty_text(self: Config) -> str:
        """Return the config as Python text."""
        # classes by their whole paths
        config = f'{self.to_dict()!r} {getattr(self, "_format_python_code", True)}'
        if config not in known:
            if len(known) >= REMEMBERED_CONFIGS:
                known.clear()
            known[config] = with_infinity_as_number(format_config(self))
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

    from icd_mmrazor.errors import DatasetError, contents

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


def explain_images() -> None:
    """Name the image file that cannot be read.

    Where: mmcv, both families, ``LoadImageFromFile``: an assertion, or an error of the decoder that does not say of
    which file.
    """
    from mmcv.transforms import LoadImageFromFile

    from icd_mmrazor.errors import DatasetError

    load = LoadImageFromFile.transform

    def transform(self: LoadImageFromFile, results: dict) -> dict | None:
        """Read an image."""
        try:
            return load(self, results)
        except Exception as error:  # decoders given any bytes raise anything
            text = ' '.join(str(error).split())  # OpenCV's have several lines
            raise DatasetError(
                f'image {results.get("img_path")} cannot be read ({type(error).__name__}: {text}). Wanted is an image '
                f'file of at most {MAX_PIXELS:,} pixels. Replace it, or take it out of the dataset.'
            ) from error

    LoadImageFromFile.transform = transform


def explain_settings() -> None:
    """Answer a wrong setting of anything that is built from a config by one message with close matches.

    Where: mmengine, both families, ``Registry.build`` and the ``Runner``: a misspelt type or setting, a missing or a
    nonsensical one ends in a ``KeyError``, ``RuntimeError`` or ``TypeError`` after 40 lines of the stack.
    """
    from mmengine.model import BaseModule
    from mmengine.registry import Registry
    from mmengine.runner import Runner

    from icd_mmrazor.configuration.building import explained_build, explained_initialisation, explained_section

    Registry.build = explained_build(Registry.build)
    BaseModule.init_weights = explained_initialisation(BaseModule.init_weights)
    sections = {
        'setup_env': 'env_cfg',
        'set_randomness': 'randomness',
        'build_logger': 'log_level',
        'build_train_loop': 'train_cfg',
        'build_val_loop': 'val_cfg',
        'build_test_loop': 'test_cfg',
        'build_optim_wrapper': 'optim_wrapper',
        '_check_scheduler_cfg': 'param_scheduler',
        'build_param_scheduler': 'param_scheduler',
        'build_evaluator': 'evaluator',
        'build_log_processor': 'log_processor',
        'build_visualizer': 'visualizer',
        'register_default_hooks': 'default_hooks',
        'register_custom_hooks': 'custom_hooks',
    }
    for method, section in sections.items():
        setattr(Runner, method, explained_section(section, getattr(Runner, method)))
    Runner.build_dataloader = staticmethod(explained_section('dataloader', Runner.build_dataloader))


def switch_all_inplace_off() -> None:
    """Let no module of an architecture work in place, as mmrazor's ``module_inplace=False`` says.

    Where: mmrazor 1.0.0, ``BaseAlgorithm.set_module_inplace_false``, with torch >= 2.5: it descends into an
    ``OrderedDict`` of modules only, which is a plain dict now. With any torch it ends at mmcv's ``ConvModule``, which
    has such a switch itself.
    """
    from mmrazor.models.algorithms import BaseAlgorithm

    def set_module_inplace_false(self: BaseAlgorithm, architecture: Any, varstr: str = '') -> None:  # noqa: ARG001
        """Switch ``inplace`` off in all modules."""
        for module in architecture.modules():
            if getattr(module, 'inplace', False):
                module.inplace = False

    BaseAlgorithm.set_module_inplace_false = set_module_inplace_false


def record_what_modules_compute() -> None:
    """Let recorders keep copies, taken before anything else can change them.

    Where: mmrazor 1.0.0, all recorders: they keep the tensors themselves, and inputs once the module or function has
    run. What works on them in place, an activation or the sum at the end of a residual block, changes the record.
    """
    from mmrazor.models.task_modules import recorder as recorders
    from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder

    from icd_mmrazor.compat.recording import Records, recording_inputs

    def reset_data_buffer(self: BaseRecorder) -> None:
        """Empty the buffer."""
        self._data_buffer = Records()

    def of_function(self: Any, origin_func: Callable, data_buffer: list) -> Callable:  # noqa: ARG001
        """Record inputs of a function."""
        return recording_inputs(origin_func, data_buffer)

    def of_method(self: Any, orgin_method: Callable, data_buffer: list) -> Callable:  # noqa: ARG001
        """Record inputs of a method."""
        return recording_inputs(orgin_method, data_buffer, skipped=1)

    BaseRecorder.reset_data_buffer = reset_data_buffer
    recorders.FunctionInputsRecorder.func_record_wrapper = of_function
    recorders.MethodInputsRecorder.method_record_wrapper = of_method


def record_what_is_there() -> None:
    """Let recorders find the module or parameter of their name whenever they begin to record.

    Where: mmrazor 1.0.0, recorders of modules and parameters: they look for it once, while the algorithm is built.
    mmengine's ``Runner`` replaces batch norms after that (``sync_bn``, and those of one process that are synchronised),
    and a module that was replaced is never called. Inputs of a module are recorded before it runs: it may change them.
    """
    import torch
    from mmrazor.models.task_modules import recorder as recorders

    from icd_mmrazor.compat.recording import HookedModule, follow_modules

    outputs, inputs = recorders.ModuleOutputsRecorder, recorders.ModuleInputsRecorder
    parameter = recorders.ParameterRecorder
    enter_module, enter_parameter = outputs.__enter__, parameter.__enter__
    prepare_parameter = parameter.prepare_from_model

    def prepare_from_model(self: Any, model: Any = None) -> None:
        """Register a hook of the module."""
        assert model is not None, 'model can not be None.'
        if hasattr(self, 'hooked'):
            self.hooked.remove()
        self.hooked = HookedModule(model, self.source, self.register)

    def enter(self: Any) -> None:
        """Start to record."""
        enter_module(self)
        # a compiled graph has its modules from the start
        if not torch.compiler.is_compiling():
            follow_modules([self])

    def forward_pre_hook(self: Any, module: Any, inputs: tuple) -> None:  # noqa: ARG001
        """Record the module's inputs."""
        if self.recording:
            self.data_buffer.append(inputs)

    def prepare_from_model_of_parameter(self: Any, model: Any = None) -> None:
        """Record the parameter."""
        prepare_parameter(self, model)
        self.model = model

    def enter_parameter_of_now(self: Any) -> None:
        """Record the parameter."""
        enter_parameter(self)
        self.data_buffer[:] = [self.model.get_parameter(self.source)]

    outputs.prepare_from_model, outputs.__enter__ = prepare_from_model, enter
    outputs.register = lambda self, module: module.register_forward_hook(self.forward_hook)
    inputs.register = lambda self, module: module.register_forward_pre_hook(self.forward_pre_hook)
    inputs.forward_pre_hook = forward_pre_hook
    parameter.prepare_from_model, parameter.__enter__ = prepare_from_model_of_parameter, enter_parameter_of_now


def make_sequences_dynamic() -> None:
    """Let mmrazor make a sequence of modules dynamic.

    Where: mmrazor 1.0.0, ``DynamicSequential.convert_from``, with torch >= 2.5: it hands on the modules of a sequence,
    a plain dict now, which ``Sequential`` takes for a module.
    """
    from collections import OrderedDict

    from mmrazor.models.architectures.dynamic_ops import DynamicSequential

    def convert_from(cls: type, module: Any) -> Any:
        """Make a dynamic sequence of the same modules."""
        return cls(OrderedDict(module._modules))

    DynamicSequential.convert_from = classmethod(convert_from)


def find_soft_cross_entropy() -> None:
    """Give mmrazor's ``KDSoftCELoss`` the function that it needs.

    Where: mmrazor 1.0.0, ``kd_soft_ce_loss.py``: it imports it from mmcls, mmpretrain's earlier name, and takes a
    placeholder where there is no mmcls.
    """
    from mmpretrain.models.losses.cross_entropy_loss import soft_cross_entropy

    module = importlib.import_module('mmrazor.models.losses.kd_soft_ce_loss')
    module.soft_cross_entropy = soft_cross_entropy


def validate_whatever_is_predicted() -> None:
    """Let a model predict something else than a sequence while it is validated.

    Where: mmengine 0.10, both families, ``ValLoop`` and those of mmrazor that inherit from it: for losses among the
    predictions ``_update_losses`` takes the last of them, of a dictionary too.
    """
    loops = importlib.import_module('mmengine.runner.loops')
    update_losses = getattr(loops, '_update_losses', None)
    if update_losses is None:
        return

    def update_losses_of_a_sequence(outputs: Any, losses: dict) -> tuple[Any, dict]:
        return update_losses(outputs, losses) if isinstance(outputs, list | tuple) else (outputs, losses)

    loops._update_losses = update_losses_of_a_sequence


def compile_in_a_sound_layout() -> None:
    """Let ``compile=True`` of a config not lay images channels last where that is not sound.

    Where: torch with inductor on a CPU: it does so with every convolution of a graph, for which see
    :func:`channels_last_is_sound`. mmengine, both families, ``Runner._maybe_compile`` asks it to compile the model.
    """
    from mmengine.runner import Runner

    compile_if_asked = Runner._maybe_compile

    def compile_soundly(self: Runner, target: str) -> None:
        if self.cfg.get('compile'):
            keep_layout_when_compiled(self.model)
        compile_if_asked(self, target)

    Runner._maybe_compile = compile_soundly


def keep_layout_when_compiled(*networks: Any) -> None:
    """Let ``torch.compile`` leave the layout of images alone, from now on, if channels last is not sound for networks.

    Args:
        *networks: Modules.
    """
    if not channels_last_is_sound(*networks):
        importlib.import_module('torch._inductor.config').layout_optimization = False


def channels_last_is_sound(*networks: Any) -> bool:
    """Return whether networks may be trained with images channels last in memory.

    Where: torch 2.6.0 to 2.14.1 on a CPU, backward pass in float32 of a 1 x 1 convolution with a stride, channels last,
    and fewer input channels than oneDNN's block has, 8 with AVX2 and 16 with AVX-512: ``jit_1x1`` writes beyond its
    memory. The process dies ("free(): invalid next size"), computes nonsense, or seems to work. Which kernels oneDNN
    takes cannot be asked, so 16 everywhere.

    Args:
        *networks: Modules.
    """
    from torch import nn

    if accelerator_available():
        return True
    convolutions = (module for network in networks for module in network.modules() if isinstance(module, nn.Conv2d))
    return not any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels < 16 for c in convolutions)


def laid_out(images: Any, channels_last: bool) -> Any:
    """Lay images out in memory channels last, or as usual.

    Where: torch, all versions: images of one channel count as contiguous in either layout, and convolutions go by their
    strides. Those of ``permute`` stay as they are in ``contiguous()``, and all that follows is channels last.

    Args:
        images: ``B x C x H x W``.
        channels_last: Whether the channels of a pixel lie side by side.

    Returns:
        The images, copied if need be.
    """
    import torch

    if channels_last:
        return images.contiguous(memory_format=torch.channels_last)
    return images.contiguous().flatten(1).view(images.shape)


def load_own_checkpoints() -> None:
    """Let a plain ``torch.load`` read what mmengine's ``CheckpointHook`` writes.

    Where: mmengine, both families, with torch >= 2.6, whose ``torch.load`` reads plain weights only: see
    :func:`icd_mmrazor.checkpoints.allowed.allowed_in_checkpoints`. Where others have allowed numpy's own names as well,
    either may be taken for a name.
    """
    import torch

    from icd_mmrazor.checkpoints.allowed import values_of_checkpoints

    torch.serialization.add_safe_globals(values_of_checkpoints())


def in_mmpretrain_scope(network: Any) -> Any:
    """Let a network's config without a scope be one of mmpretrain's, as it is in mmpretrain.

    Where: mmrazor 1.0.0 builds teacher and student in its own scope, where ``ImageClassifier`` and all its parts are
    unknown unless every one of them names its scope.

    Args:
        network: A config, or a built model.

    Returns:
        The config with ``_scope_='mmpretrain'``, if it names no scope and is of no type of mmrazor's; else the same.
    """
    from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
    from mmrazor.registry import MODELS

    if not isinstance(network, dict) or 'type' not in network or '_scope_' in network:
        return network
    kind = network['type']
    if isinstance(kind, str):
        known = not kind.startswith('mmpretrain.') and MODELS.get(kind) is not None
    else:
        known = kind not in MMPRETRAIN_MODELS.module_dict.values()
    return network if known else {'_scope_': 'mmpretrain', **network}


def take_batches_from(loop: Any, batches: Iterator) -> None:
    """Let a training loop that counts iterations take its batches from an iterator that begins where the run is.

    Where: mmengine, both families, ``IterBasedTrainLoop``. It makes its own iterator before hooks can change the
    DataLoader (0.10.7: and starts the workers), which begins with the first batch. A resumed run passes over those that
    were trained already: 0.10.7 loads every one of them, onedl-mmengine 0.10.12 those of samplers other than its own.

    Args:
        loop: The ``IterBasedTrainLoop``, at the iteration it goes on from.
        batches: The batches from that iteration on.
    """

    class Batches:
        # onedl-mmengine calls skip_iter once, 0.10.7 asks for each of the batches
        passed_over = 0 if hasattr(loop.dataloader_iterator, 'skip_iter') else loop.iter

        def skip_iter(self, num_iters: int) -> None:
            """Skip nothing: the iterator has begun behind them."""

        def __next__(self) -> Any:
            if self.passed_over:
                self.passed_over -= 1
                return None
            return next(batches)

    loop.dataloader_iterator = Batches()


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


def current_iteration() -> int:
    """Return how many iterations the training has done, -1 before it begins, without waiting for any lock.

    Where: mmengine, both families, ``ManagerMixin``: ``get_instance`` and ``get_current_instance`` keep the lock of all
    loggers, message hubs and visualizers for good if they raise, and while a constructor runs. The main thread may take
    it again; any other that asks waits for ever.
    """
    from mmengine.logging import MessageHub

    hubs = list(MessageHub._instance_dict.values())
    return hubs[-1].get_info('iter', -1) if hubs else -1


def lost_connection(error: Exception) -> bool:
    """Return whether an error only says that another process of a process group has gone.

    Where: torch, all versions: gloo raises a plain ``RuntimeError`` ("[.../gloo/transport/tcp/pair.cc:534] Connection
    closed by peer"), NCCL one error class for this and everything else ("ncclRemoteError: ... remote process exited").

    Args:
        error: What a collective operation, or anything else, has raised.
    """
    import torch.distributed as dist

    text = str(error)
    return isinstance(error, dist.DistNetworkError) or any(
        said in text for said in ('gloo/transport/', 'ncclRemoteError', 'remote process exited')
    )


def forget_earlier_starts() -> None:
    """Let the processes of a start after a restart by torchrun not find the addresses of those that have ended.

    Where: torch 2.14 (``torch/distributed/rendezvous.py``, ``_create_c10d_store``: "We create a new TCPStore for every
    retry so no need to add prefix for each attempt"; ``DynamicRendezvousHandler`` does not, it keeps its first one). A
    process that reads an address before its owner has written the new one fails: "Gloo connectFullMesh failed ...
    Connection refused".
    """
    import torch.distributed as dist

    # by its name: torch.distributed.rendezvous is a function
    rendezvous = importlib.import_module('torch.distributed.rendezvous')
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    create = getattr(rendezvous, '_create_c10d_store', None)
    if attempt == '0' or create is None:
        return

    def create_for_this_start(*args: Any, **kwargs: Any) -> Any:
        return dist.PrefixStore(f'attempt_{attempt}', create(*args, **kwargs))

    rendezvous._create_c10d_store = create_for_this_start


@contextlib.contextmanager
def process_group(cfg: Any) -> Iterator[None]:
    """Hold the process group of a tool: gloo where there is no GPU, what mmengine starts where there is one.

    Where: mmengine, both families, ``init_dist`` and ``Runner.wrap_model``: without an accelerator
    ``torch.cuda.set_device`` fails, and DDP is given a device number. Both also leave the group to the end of the
    process, where a rank can abort: a thread of gloo that still holds a tensor meets an interpreter that is going
    (torch 2.14, about one run in ten). With torch 2.6 destroying the group waits for ever for a thread of gloo that
    waits for Python's lock, to free the tensors of an operation that has just ended. DDP, in reference cycles, keeps
    the group's threads alive after it is destroyed, so the cycles are collected here. What is built inside must not be
    referenced outside.

    Args:
        cfg: The run's ``Config``, ``launcher`` set; gets a ``model_wrapper_cfg`` for the CPU.

    Yields:
        Nothing; the group is destroyed at the end, unless that is an error.

    Raises:
        SettingError: Another launcher than ``pytorch`` without an accelerator.
    """
    import torch.distributed as dist

    from icd_mmrazor.errors import SettingError

    forget_earlier_starts()
    if cfg.launcher != 'none' and not accelerator_available():
        if cfg.launcher != 'pytorch':
            raise SettingError(
                f"launcher='{cfg.launcher}' needs a GPU and this machine shows none. Start the processes with "
                'tools/dist_train.sh or torchrun (launcher pytorch); on a CPU they talk through gloo.'
            )
        timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        # longer: the watchdog, which ends a run after this time, knows whom to blame
        longer = datetime.timedelta(seconds=timeout + WATCHDOGS_LEAD) if timeout else None
        dist.init_process_group('gloo', timeout=longer)
        wrapper = dict(broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))
        cfg.model_wrapper_cfg = {'type': 'MMDistributedDataParallel', **wrapper, **cfg.get('model_wrapper_cfg', {})}
        cfg.model_wrapper_cfg.device_ids = None
    # not after an error: it would wait for the processes that have not had it
    yield
    if dist.is_available() and dist.is_initialized():
        # for a thread of gloo to let go of the last tensors
        time.sleep(0.1)
        dist.destroy_process_group()
        gc.collect()
