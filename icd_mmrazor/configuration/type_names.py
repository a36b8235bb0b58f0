"""Names of the types in configs."""

import functools
import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import Registry

PACKAGE = __name__.partition('.')[0]
# packages whose registries are filled by importing icd_mmrazor
PACKAGES = ('mmengine', 'mmpretrain', 'mmrazor', PACKAGE)
# packages that come with mmpretrain; mmrazor needs icd_mmrazor, which prepares it
WITH_MMPRETRAIN = ('mmcv', 'mmengine', 'mmpretrain', 'torch', 'torchvision')
# settings that the stack looks up as a type
TYPES = ('type', 'constructor', 'runner_type', 'ema_type', 'norm_layer', 'conv_type', 'layer_type', 'padding_mode')


def type_name(kind: Any) -> str:
    """Return the name of a type, without its scope.

    Args:
        kind: A name (``'ResNet'``, ``'mmpretrain.ResNet'``), a whole path (``'mmpretrain.models.ResNet'``), or the
            class or function itself, as in mmengine's pure Python configs.

    Returns:
        The name it is registered under, else its own name; ``''`` for anything else.
    """
    found = _resolved(kind)
    if isinstance(found, str):
        return found.rpartition('.')[2]
    return next((name for _, name in _places(found)), getattr(found, '__name__', '')) if callable(found) else ''


def registered(kind: str, scope: str | None = None) -> list[Any]:
    """Return what is registered under a name, in any registry of mmengine, mmpretrain, mmrazor and this package.

    Args:
        kind: ``'ResNet'``, ``'mmpretrain.ResNet'``, or the whole path of a class whose module is imported.
        scope: Where a name without a scope is looked up, as mmengine does; None: everywhere.
    """
    package, _, name = kind.rpartition('.')
    if package in PACKAGES or not (package or scope):
        registries = (each for each in _registries() if package in ('', each.scope))
        found = [each.module_dict[name] for each in registries if name in each.module_dict]
    else:
        found = [] if package else [cls for root in _roots() if (cls := _inherited(root, name, scope or ''))]
    if found or not package:
        return found
    cls = _imported(kind)
    return [cls] if cls is not None and any(_places(cls)) else []


def known_types() -> set[str]:
    """Return all registered names, without their scopes."""
    return {name for registry in _registries() for name in registry.module_dict}


def by_names(cfg: Config) -> Config:
    """Replace the classes in a config by their names, so that both styles of config give the same runs and files.

    A registered class gets its name, with a scope where the name alone means another class; the modules of a user's
    classes go to ``custom_imports``. A class that is not registered stays. Whole paths of classes, which mmengine
    stores in place of classes, are treated alike if their modules are imported.

    Returns:
        Another config; the same object if there is nothing to replace.
    """
    modules = {''}
    plain = cfg._to_lazy_dict()
    named = _by_names(plain, cfg.get('default_scope') or 'mmengine', modules)
    if named == plain and len(plain) == len(cfg):
        return cfg
    given = named.get('custom_imports') or {}
    imports = given.get('imports') or []
    imports = [imports] if isinstance(imports, str) else [*imports]
    if more := sorted(modules - {'', *imports}):
        named['custom_imports'] = {**given, 'imports': [*imports, *more]}
    return Config(named, cfg_text=cfg.text, filename=cfg.filename, env_variables=cfg.env_variables)


def dicts(value: Any) -> Iterator[dict]:
    """Walk through all dictionaries in a config, or in a part of it."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from dicts(item)


def import_for(cls: Any) -> str:
    """Return the module that a config has to import for a class or function; ``''`` if it comes with mmpretrain."""
    module = getattr(cls, 'func', cls).__module__  # of a functools.partial: of what it calls
    package = module.partition('.')[0]
    if package in (*WITH_MMPRETRAIN, '__main__'):
        return ''
    return PACKAGE if package in PACKAGES else module


def _by_names(value: Any, scope: str, modules: set[str]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_by_names(item, scope, modules) for item in value)
    if not isinstance(value, Mapping):
        return value
    scope = value.get('_scope_') or scope
    own = _name_in(scope, value.get('type')).rpartition('.')[0]
    if own not in ('', 'mmengine') and '_scope_' not in value:
        # its parts are looked up in the same scope
        scope, value = own, {'_scope_': own, **value}
    named = {}
    for key, item in value.items():
        name = _name_in(scope, item) if key in TYPES else ''
        if name:
            modules.add(import_for(_resolved(item)))
        named[key] = name or _by_names(item, scope, modules)
    return named


def _name_in(scope: str, kind: Any) -> str:
    """Return the name that finds a class, or its whole path, in a scope; ``''`` for a name or unregistered class."""
    found = _resolved(kind)
    places = list(_places(found)) if callable(found) else []
    short = (name for registry, name in places if _inherited(registry.root, name, scope) is found)
    return next(short, f'{places[0][0].scope}.{places[0][1]}' if places else '')


def _resolved(kind: Any) -> Any:
    """Return the class of a type that is given by its class or path; else what was given."""
    if isinstance(kind, LazyObject | LazyAttr):
        return kind.build()
    if isinstance(kind, str) and kind.rpartition('.')[0] not in ('', *PACKAGES):
        return next(iter(registered(kind)), kind)
    return kind


def _imported(path: str) -> Any:
    """Return what a whole path leads to, if its module is already imported; else None."""
    module, names = path, []
    while module and module not in sys.modules:
        module, _, name = module.rpartition('.')
        names.insert(0, name)
    found = sys.modules.get(module)
    for name in names:
        found = getattr(found, name, None)
    return found


def _inherited(root: Registry, name: str, scope: str) -> Any:
    """Return what mmengine finds under a name in a scope, or None."""
    registry = root._search_child(scope)
    while registry is not None and name not in registry.module_dict:
        registry = registry.parent
    return None if registry is None else registry.module_dict[name]


def _places(cls: Any) -> Iterator[tuple[Registry, str]]:
    """Yield the registries that hold a class, with its name there."""
    return ((each, name) for each in _registries() for name, value in each.module_dict.items() if value is cls)


@functools.cache
def _roots() -> list[Registry]:
    return list({id(each.root): each.root for each in _registries()}.values())


@functools.cache
def _registries() -> list[Registry]:
    modules = {package: vars(importlib.import_module(f'{package}.registry')) for package in PACKAGES}
    return [
        value
        for package, members in modules.items()
        for value in members.values()
        if isinstance(value, Registry) and value.scope == package
    ]
