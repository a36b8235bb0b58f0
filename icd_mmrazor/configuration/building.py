"""What is wrong with the settings that something could not be built from, in one message."""

import contextlib
import functools
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.model import initialize
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch import nn
from torch.utils.data import DataLoader

from icd_mmrazor.configuration.type_names import known_types, registered
from icd_mmrazor.errors import SettingError, UserError, did_you_mean

UNKNOWN_ARGUMENT = re.compile(r"(?:(\w+)\.)?\w+\(\) got an unexpected keyword argument '(\w+)'")
MISSING_ARGUMENTS = re.compile(r'\w+\(\) missing \d+ required .*?arguments?: (.*)')
# what mmengine's Runner makes without a registry
UNREGISTERED = (EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop, TestLoop, DataLoader)
MAX_LENGTH = 400
IMPORTS = "Modules of your own are found if the config imports them: custom_imports = dict(imports=['my_module'])."


def arguments_of(cls: Any) -> list[str]:
    """Return the names of the settings that a class or function takes.

    Args:
        cls: It. A class that passes on what it does not know is asked with its base classes. ``None`` takes nothing.
    """
    names: dict[str, None] = {}
    for each in inspect.getmro(cls) if inspect.isclass(cls) else [cls]:
        function = vars(each).get('__init__') if inspect.isclass(each) else each
        if not inspect.isroutine(function):
            continue
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # written in C
            break
        named = (p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
        names |= dict.fromkeys(name for name in named if name != 'self')
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def reason(error: BaseException) -> str:
    """Say on one line what was raised, and where.

    Args:
        error: It.

    Returns:
        ``"KeyError: 'invalid depth 19 for resnet' (mmpretrain/models/backbones/resnet.py, line 471)"``.
    """
    text = _one_line(str(error), MAX_LENGTH)
    place = ''
    if error.__traceback__:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f' ({frame.filename.rpartition("site-packages/")[2]}, line {frame.lineno})'
    return f'{type(error).__name__}{": " if text else ""}{text}{place}'


def explain(what: str, settings: Any, cls: Any, error: Exception) -> SettingError:
    """Make one message of what was raised while something was made from settings.

    Args:
        what: What was made: ``'ICDLoss'``, ``'train_cfg'``.
        settings: What it was made from.
        cls: The class or function that takes them, ``None`` if it is not known.
        error: What was raised.

    Returns:
        The error to raise from it, which is of the class of what was raised, too. It names close matches of a setting
        that is not known, those that are missing, or else the settings with what was raised and where.
    """
    given = settings if isinstance(settings, Mapping) else {}
    unknown, missing = UNKNOWN_ARGUMENT.search(str(error)), MISSING_ARGUMENTS.search(str(error))
    if isinstance(error, TypeError) and unknown and unknown[2] in given:
        close = did_you_mean(unknown[2], ['type', *arguments_of(cls)])
        return _both(f'{what} has no setting {unknown[2]!r}.{close}', error)
    if isinstance(error, TypeError) and missing and not {*re.findall(r"'(\w+)'", missing[1])} & {*given}:
        found = ', '.join(str(key) for key in given if key != 'type') or 'nothing'
        return _both(f'{what} needs {missing[1]}; found are {found}. Add what it needs.', error)
    for kind in _types_in([*given.values()]):
        if not registered(kind):
            close = did_you_mean(kind, known_types())
            return _both(f'type={kind!r} in {what} is not registered.{close} {IMPORTS}', error)
    shown = ', '.join(
        f'{key}={_one_line(repr(value), 60)}' for key, value in given.items() if key not in ('type', '_scope_')
    )
    shown = f'{what}({shown})' if given else f'{what}={_one_line(repr(settings), 60)}'
    return _both(f'{shown} cannot be made. {reason(error)}. Correct the settings that it takes.', error)


def _both(message: str, error: Exception) -> SettingError:
    """Make an error that whoever catches what was raised catches, too."""
    try:
        # its message is written as that of any error, a KeyError's as well
        own = dict(__str__=BaseException.__str__, __reduce__=lambda self: (SettingError, self.args))
        return type('SettingError', (SettingError, type(error)), own)(message)
    except TypeError:
        # a class that wants more than a message, or allows no other beside it
        return SettingError(message)


def _one_line(text: str, length: int) -> str:
    text = ' '.join(text.split())
    return text if len(text) <= length else f'{text[: length - 3]}...'


def _types_in(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping) and isinstance(settings.get('type'), str):
        yield settings['type']
    if isinstance(settings, Mapping | list | tuple):
        for item in settings.values() if isinstance(settings, Mapping) else settings:
            yield from _types_in(item)


def explained_build(build: Callable) -> Callable:
    """Wrap ``Registry.build`` so that wrong settings are a :class:`SettingError`, beside what they are anyway.

    Args:
        build: The method.

    Returns:
        The method to put in its place; where nothing fails, it does nothing else.
    """

    @functools.wraps(build)
    def wrapper(self: Registry, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return build(self, cfg, *args, **kwargs)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # any class, with any settings
            kind = cfg.get('type') if isinstance(cfg, Mapping) else None
            if not isinstance(kind, str) and not callable(kind):
                found = _one_line(repr(cfg), 60)
                raise _both(
                    f'a {self.name} is built from dict(type=..., ...), found {found}. Give its type.', error
                ) from error
            if not isinstance(kind, str):
                raise explain(getattr(kind, '__name__', repr(kind)), cfg, kind, error) from error
            cls, known = _look_up(self, kind, cfg.get('_scope_'))
            if cls is None:
                close = did_you_mean(kind.rpartition('.')[2], known)
                raise _both(f'type={kind!r} is not registered ({self.name}).{close} {IMPORTS}', error) from error
            raise explain(kind, cfg, cls, error) from error

    return wrapper


def _look_up(registry: Registry, kind: str, scope: Any) -> tuple[Any, set[str]]:
    """Return the class of a type, or None, and the types that there are."""
    known: set[str] = set()
    # the fork raises for what it does not find, and importing a scope or a module may raise anything
    with contextlib.suppress(Exception), registry.switch_scope_and_registry(scope) as used:
        inherited = used
        while inherited is not None:
            known |= {*inherited.module_dict}
            inherited = inherited.parent
        return used.get(kind), known
    return None, known


def explained_initialisation(initialise: Callable) -> Callable:
    """Wrap ``BaseModule.init_weights``, likewise.

    Args:
        initialise: The method.

    Returns:
        The method to put in its place.
    """

    @functools.wraps(initialise)
    def wrapper(self: nn.Module) -> None:
        try:
            initialise(self)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # as above
            settings = {'init_cfg': getattr(self, 'init_cfg', None)}
            raise explain(type(self).__name__, settings, initialize, error) from error

    return wrapper


def explained_section(name: str, build: Callable) -> Callable:
    """Wrap a method of mmengine's ``Runner`` that makes something from a section of the config, likewise.

    Args:
        name: The section's name, for the message.
        build: The method; its first argument is the section, or its arguments by name are.

    Returns:
        The method to put in its place.
    """

    @functools.wraps(build)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return build(*args, **kwargs)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # as above
            positional = [each for each in args if not isinstance(each, Runner)]
            taking = UNKNOWN_ARGUMENT.search(str(error))
            cls = next((each for each in UNREGISTERED if taking and each.__name__ == taking[1]), build)
            section = positional[0] if positional else kwargs
            raise explain(name, section, cls, error) from error

    return wrapper
