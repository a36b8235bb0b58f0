"""Loading of foreign files without running code."""

import functools
import importlib.metadata
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import PickleHandler, YamlHandler
from mmengine.utils import digit_version

from icd_mmrazor.checkpoints.allowed import values_of_checkpoints
from icd_mmrazor.checkpoints.plain_files import read_pickle, read_yaml
from icd_mmrazor.checkpoints.reading import read_checkpoint

SAFE_TIMM = '1.0.26'


def load_checkpoints_as_plain_weights() -> None:
    """Make every loading of a checkpoint by mmengine (``--resume``, ``load_from``, ``init_cfg``) refuse code.

    Where: onedl-mmengine 0.10.12 falls back to an arbitrary pickle when a file does not load with
    ``weights_only=True``; mmengine 0.10.7 does not load its own checkpoints; both load downloads as arbitrary pickles,
    and run a checkpoint's ``meta['config']``, which no version writes any more, as Python when they resume.
    """

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
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = load_from_elsewhere
    loader = mmengine_checkpoint.CheckpointLoader
    loader.register_scheme(prefixes='', loader=load_from_local, force=True)
    loader.register_scheme(prefixes=('http://', 'https://'), loader=load_from_http, force=True)


def load_own_checkpoints() -> None:
    """Let a plain ``torch.load`` read what mmengine's ``CheckpointHook`` writes.

    Where: mmengine, both families, with torch >= 2.6, whose ``torch.load`` reads plain weights only. mmrazor
    and its tests call it.
    """
    torch.serialization.add_safe_globals(values_of_checkpoints())


def read_files_as_plain_values() -> None:
    """Make ``mmengine.load`` (annotations, results, subnets and candidates of mmrazor, configs in YAML) refuse code.

    Where: mmengine, both families, ``fileio/handlers``: pickles are run, and YAML tags (``!!python/object``) are, too.
    """

    class PlainPickleHandler(PickleHandler):
        def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
            return read_pickle(file, **kwargs)

    class PlainYamlHandler(YamlHandler):
        def load_from_fileobj(self, file: Any, **_: Any) -> Any:
            return read_yaml(file)

    register_handler(['pickle', 'pkl'])(PlainPickleHandler)
    register_handler(['yaml', 'yml'])(PlainYamlHandler)


def refuse_pickles_of_timm() -> None:
    """Let timm read a ``checkpoint_path`` of a config only if it is a plain weights file.

    Where: mmpretrain, both families, ``TIMMBackbone`` and ``TimmClassifier``: they hand the path to timm, which before
    1.0.26 unpickles it.
    """
    try:
        if digit_version(importlib.metadata.version('timm')) >= digit_version(SAFE_TIMM):
            return
    except importlib.metadata.PackageNotFoundError:
        return
    from mmpretrain.models import TIMMBackbone, TimmClassifier

    for wrapper in (TIMMBackbone, TimmClassifier):
        wrapper.__init__ = _of_plain_weights(wrapper.__init__)


def _of_plain_weights(build: Any) -> Any:
    @functools.wraps(build)
    def __init__(self: Any, *args: Any, checkpoint_path: str = '', **kwargs: Any) -> None:  # noqa: N807
        if checkpoint_path:
            read_checkpoint(checkpoint_path)
        build(self, *args, checkpoint_path=checkpoint_path, **kwargs)

    return __init__
