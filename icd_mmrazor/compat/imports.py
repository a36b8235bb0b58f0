"""Importing the stack: what must be installed, mmrazor's version gates, the packages of configs."""

import contextlib
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

PACKAGE = 'icd_mmrazor'
OPENMMLAB_PACKAGES = ('mmengine', 'mmcv', 'mmpretrain')
MIN_TORCH = (2, 10)
MAX_PIXELS = 178_956_970  # of an image; Pillow's own limit


def require_stack() -> None:
    """Raise an ``ImportError`` that says what is missing or too old.

    Neither family of the OpenMMLab packages is a hard dependency: they share their folders, so that a dependency on one
    breaks an environment that has the other.
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

    Where: torch before 2.10 (CVE-2026-24747, GHSA-63cw-57p8-fm3p), which pip does not install with this package.
    """
    import torch

    if tuple(map(int, torch.__version__.split('.')[:2])) < MIN_TORCH:
        raise ImportError(
            f'icd_mmrazor needs torch >= {".".join(map(str, MIN_TORCH))}, and torch {torch.__version__} is installed: '
            'there a checkpoint can run code in spite of weights_only=True (CVE-2026-24747). Install: '
            'pip install "torch>=2.10" "torchvision>=0.25"'
        )


def limit_images() -> None:
    """Stop OpenCV from decoding images that take gigabytes unpacked, however small their files.

    Where: OpenCV, whose limit is 2^30 pixels, six times Pillow's. It is read from the environment at its import, which
    that of ``mmengine.runner`` includes: a program that imports it before this package keeps the larger limit.
    """
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))


@contextlib.contextmanager
def silenced_onedl_notice() -> Iterator[None]:
    """Drop the line "Could not import OneDL", a private dataset service, that importing mmpretrain prints.

    Where: onedl-mmpretrain 1.3.6, ``datasets/__init__.py``: ``print_log`` without a logger prints whatever its level.
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
    """Import every module of mmrazor past its two version gates, and mmpretrain's.

    Where: mmrazor 1.0.0, of which there is no later release.

    * It asserts ``mmcv <= 2.1.0`` at import. It works with later ones; it sees 2.1.0 while it is imported.
    * With torch >= 2 (its issues 615 and 632) the quantization code imports names that torch 2 renamed. mmrazor guards
      it by ``mmrazor.digit_version(torch.__version__) >= 1.13`` and has placeholders for an older torch, so that one
      question is answered with an older version during the import, and truly afterwards.
    * It sets Python's recursion limit to 2^20 (``fx_tracer.py``, ``channel_flow.py``), with which endless recursion
      ends the process instead of raising an error. The limit of before is restored.
    """
    import mmcv
    import torch
    from mmengine.utils import digit_version

    limit, true_version = sys.getrecursionlimit(), mmcv.__version__
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
        with warnings.catch_warnings(), silenced_onedl_notice():
            warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
            for package in ('mmrazor', 'mmpretrain'):
                importlib.import_module(f'{package}.utils').register_all_modules(init_default_scope=False)
    finally:
        importing = False
        mmrazor.digit_version = digit_version
        sys.setrecursionlimit(limit)


def patch_package_lookup() -> None:
    """Let ``_base_ = ['mmpretrain::...']`` find packages without ``pkg_resources``.

    Where: mmengine <= 0.10.7, ``mmengine/utils/package_utils.py``, with setuptools >= 82, which no longer ships
    ``pkg_resources``. Fixed in onedl-mmengine.
    """
    package_utils = importlib.import_module('mmengine.utils.package_utils')
    try:
        package_utils.is_installed('mmengine')
        return
    except ModuleNotFoundError:
        pass

    from mmengine.config.utils import MODULE2PACKAGE

    modules = {package: module for module, package in MODULE2PACKAGE.items()}

    def is_installed(package: str) -> bool:
        return importlib.util.find_spec(modules.get(package, package)) is not None

    def get_installed_path(package: str) -> str:
        spec = importlib.util.find_spec(modules.get(package, package))
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f'{package} is not an installed package.')
        return spec.submodule_search_locations[0]

    # mmengine.hub asks by install_package, which looks in its own module
    package_utils.is_installed = is_installed
    config, hub = map(importlib.import_module, ('mmengine.config.config', 'mmengine.hub.hub'))
    config.is_installed, config.get_installed_path = is_installed, get_installed_path
    hub.get_installed_path = get_installed_path


def register_config_package() -> None:
    """Let ``_base_ = ['icd_mmrazor::...']`` name our configs.

    Where: mmengine, both families, ``mmengine/config/utils.py``: the packages that configs can be inherited from are
    a fixed table.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE[PACKAGE] = PACKAGE
