"""The names of what configs build: of classes, of dotted paths, of names with a scope."""

import functools
import importlib
import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import Registry

PACKAGE = __name__.partition('.')[0]
# packages whose registries are filled by importing icd_mmrazor
PACKAGES = ('mmengine', 'mmpretrain', 'mmrazor', PACKAGE)
# what is there wherever mmpretrain is; mmrazor needs icd_mmrazor, which prepares it
WITH_MMPRETRAIN = ('mmcv', 'mmengine', 'mmpretrain', 'torch', 'torchvision')
# settings that the stack looks up as a type
TYPES = ('type', 'constructor', 'runner_type', 'ema_type', 'norm_layer', 'conv_type', 'layer_type', 'padding_mode')


def type_name(kind: Any) -> str:
    """Return the name of a type as configs by names have it, without a scope.

    Args:
        kind: A name (``'ResNet'``), one with a scope (``'mmpretrain.ResNet'``), a whole path
            (``'mmpretrain.models.ResNet'``), or the class or function itself, as configs in mmengine's pure Python
            style have them.

    Returns:
        The name it is registered under (``'Pretrained'`` for mmengine's ``PretrainedInit``), else its own; ``''`` for
        what is none of these.
    """
    found = _built(kind)
    if isinstance(found, str):
        return found.rpartition('.')[2]
    return next((name for _, name in _places(found)), getattr(found, '__name__', '')) if callable(found) else ''


def registered(kind: str, scope: str | None = None) -> list[Any]:
    """Return what is registered under a type: in any registry of mmengine, mmpretrain, mmrazor and here.

    Args:
        kind: ``'ResNet'``, ``'mmpretrain.ResNet'`` or the whole path of a class, which configs in mmengine's pure
            Python style have. Nothing is imported for it.
        scope: Where a name without a scope is looked up, as mmengine does; None: everywhere.
    """
    own, _, name = kind.rpartition('.')
    if own in PACKAGES or not (own or scope):
        registries = itertools.chain(*(_registries(package) for package in PACKAGES if own in ('', package)))
        found = [registry.module_dict[name] for registry in registries if name in registry.module_dict]
    else:
        found = [] if own else [cls for root in _roots() if (cls := _inherited(root, name, scope))]
    if found or not own:
        return found
    cls = _at(kind)
    return [cls] if cls is not None and any(_places(cls)) else []


def known_types() -> set[str]:
    """Return all types that are registered in these packages, without their scopes."""
    return {name for package in PACKAGES for registry in _registries(package) for name in registry.module_dict}


def by_names(cfg: Config) -> Config:
    """Write a config in mmengine's pure Python style as one by names.

    Both styles then give the same runs, files and exports. A class that is registered gets its name, with a scope
    where the name alone would be another one's; modules of a user's own go to ``custom_imports``. A class that is
    registered nowhere stays. Whole paths, which mmengine writes in place of classes when it stores such a config, are
    treated alike if their modules are imported.

    Args:
        cfg: The config; left as it is.

    Returns:
        The config by names; the same object if it is one already.
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


def import_for(cls: Any) -> str:
    """Return the module that a config has to import for a type, ``''`` if mmpretrain brings it.

    Args:
        cls: The class or function.
    """
    module = getattr(cls, 'func', cls).__module__  # of a functools.partial, what it calls
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
    kind = value.get('type')
    own = _name_in(scope, kind).rpartition('.')[0] if _is_registered(kind) else ''
    if own not in ('', 'mmengine') and '_scope_' not in value:
        # what is built inside is looked up there, too
        scope, value = own, {'_scope_': own, **value}
    named = {}
    for key, item in value.items():
        if key in TYPES and _is_registered(item):
            modules.add(import_for(_built(item)))
            named[key] = _name_in(scope, item)
        else:
            named[key] = _by_names(item, scope, modules)
    return named


def _is_registered(kind: Any) -> bool:
    """Return whether this is a class, or its whole path, that has a name."""
    found = _built(kind)
    return callable(found) and any(_places(found))


def _name_in(scope: str, kind: Any) -> str:
    """Return the name that a registered class is found by in a scope."""
    found = _built(kind)
    places = list(_places(found))
    short = (name for registry, name in places if _inherited(registry.root, name, scope) is found)
    registry, name = places[0]
    return next(short, f'{registry.scope}.{name}')


def _inherited(root: Registry, name: str, scope: str) -> Any:
    """Return what mmengine finds under a name in a scope, or None."""
    registry = _of_scope(root, scope)
    while registry is not None and name not in registry.module_dict:
        registry = registry.parent
    return None if registry is None else registry.module_dict[name]


def _of_scope(registry: Registry, scope: str) -> Registry | None:
    if registry.scope == scope:
        return registry
    inner = (_of_scope(child, scope) for child in registry.children.values())
    return next((found for found in inner if found is not None), None)


def _built(kind: Any) -> Any:
    """Return the class of a type that is not given by its name; else the name."""
    if isinstance(kind, LazyObject | LazyAttr):
        return kind.build()
    if isinstance(kind, str) and kind.rpartition('.')[0] not in ('', *PACKAGES):
        return next(iter(registered(kind)), kind)
    return kind


def _at(path: str) -> Any:
    """Return what a whole path leads to, if its module is imported already; else None."""
    module, names = path, []
    while module and module not in sys.modules:
        module, _, name = module.rpartition('.')
        names.insert(0, name)
    found = sys.modules.get(module)
    for name in names:
        found = getattr(found, name, None)
    return found


def _places(cls: Any) -> Iterator[tuple[Registry, str]]:
    """Walk through the registries that have a class, and its name there."""
    for package in PACKAGES:
        for registry in _registries(package):
            for name, each in registry.module_dict.items():
                if each is cls:
                    yield registry, name


@functools.cache
def _roots() -> list[Registry]:
    roots = {id(r.root): r.root for package in PACKAGES for r in _registries(package)}
    return [*roots.values()]


@functools.cache
def _registries(package: str) -> list[Registry]:
    module = importlib.import_module(f'{package}.registry')
    # it imports those of mmengine, too
    return [value for value in vars(module).values() if isinstance(value, Registry) and value.scope == package]
