"""Plain settings that would run code when something is built from them."""

import importlib.util
from typing import Any

from icd_mmrazor.configuration.type_names import PACKAGES, TYPES, registered, type_name

# settings that may be a network's config file
NETWORKS = ('architecture', 'cfg_path', 'student', 'teacher')
# mmrazor's recorders and deliveries of functions and methods: they import the module that these settings begin with
PATHS = ('source', 'func_path', 'method_path')
REPLACING = ('FunctionInputs', 'FunctionOutputs', 'MethodInputs', 'MethodOutputs')
# settings that mmengine imports a package for
SCOPES = ('_scope_', 'default_scope')
# files of these formats can hold code, and mmengine.load runs it; an annotation file may even be an address
FILES_OF_CODE = ('pickle', 'pkl', 'yaml', 'yml')
# types that unpickle files of any name
UNPICKLING = ('RAM', 'RAMNormal', 'RefCOCO')
# the parts of mmrazor that a distillation needs; quantizers, tracers, searches and loops import what they are told
OF_MMRAZOR = (
    'mmrazor.datasets',
    'mmrazor.engine.hooks',
    'mmrazor.engine.optimizers',
    'mmrazor.engine.runner.distill_val_loop',
    'mmrazor.models.algorithms.base',
    'mmrazor.models.algorithms.distill',
    'mmrazor.models.architectures',
    'mmrazor.models.distillers',
    'mmrazor.models.losses',
    'mmrazor.models.task_modules.delivery',
    'mmrazor.models.task_modules.recorder',
    # a network that was pruned or searched
    'mmrazor.implementations.pruning.group_fisher.prune_deploy_sub_model',
    'mmrazor.models.mutables',
    'mmrazor.models.mutators.channel_mutator',
    'mmrazor.models.task_modules.demo_inputs',
    'mmrazor.models.task_modules.tracer.channel_analyzer',
    'mmrazor.registry.registry',
)
# packages whose functions these may record
STACK = (*PACKAGES, 'mmcv', 'torch', 'torchvision')


def code_that_runs(settings: Any) -> str | None:
    """Say which of some plain settings would run code when something is built from them, and why; None if none does."""
    replacing = isinstance(settings, dict) and type_name(settings.get('type')).startswith(REPLACING)
    for key, item in settings.items() if isinstance(settings, dict) else enumerate(settings):
        if replacing and key in PATHS and str(item).partition('.')[0] not in STACK:
            return f'{key}={item!r} of a {settings["type"]} is not in {", ".join(STACK)}, and mmrazor would import it'
        if isinstance(item, dict | list | tuple):
            problem = code_that_runs(item)
        else:
            problem = _reason(key, item)
            problem = f'{key}={item!r} {problem}' if problem else None
        if problem:
            return problem
    return None


def _reason(key: Any, item: Any) -> str | None:
    if key == 'trust_remote_code' and item:
        return 'would run code from a model hub'
    if not isinstance(item, str):
        return None
    # a subnet's file is read as plain values, whatever its format
    if item.rpartition('.')[2] in FILES_OF_CODE and (key != 'fix_subnet' or '://' in item):
        return 'names a pickle or YAML file, and reading it could run code'
    if key == 'type' and type_name(item) in UNPICKLING:
        return 'reads pickles, which could run code'
    found = registered(item) if key in TYPES else []
    if any(_is_beyond_distillation(each) for each in found):
        return 'is a part of mmrazor that no distillation needs, and some of those import what they are told'
    if key in TYPES and not found and _importable(item):
        return f'is not registered in {", ".join(PACKAGES)}, and mmengine would import and call it'
    if key in SCOPES and item not in PACKAGES:
        return f'is not one of {", ".join(PACKAGES)}, and mmengine would import it'
    if (item.endswith('.py') or (key in NETWORKS and '::' in item)) and not _of_package(item):
        return 'names a file, and reading it would run it'
    if key == 'dtype' and not item.removeprefix('torch.').isidentifier():
        return 'is not a data type, and mmpretrain would run it'
    return None


def _is_beyond_distillation(cls: Any) -> bool:
    module = getattr(cls, '__module__', '')
    return module.partition('.')[0] == 'mmrazor' and not f'{module}.'.startswith(tuple(f'{m}.' for m in OF_MMRAZOR))


def _importable(kind: str) -> bool:
    if '.' in kind:
        return True
    try:
        return importlib.util.find_spec(kind) is not None
    except ValueError:  # '', or a module without a spec
        return bool(kind)


def _of_package(config: str) -> bool:
    package, _, path = config.partition('::')
    return package in PACKAGES and not path.startswith('/') and '..' not in path
