"""Readable errors for what could not be built from a config."""

import contextlib
import inspect
import re
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from mmengine.registry import build_from_cfg
from mmengine.runner import Runner

from icd_mmrazor.configuration.type_names import known_types, registered
from icd_mmrazor.errors import SettingError, UserError, did_you_mean, raised_as
from icd_mmrazor.memory import out_of_memory

UNKNOWN_ARGUMENT = re.compile(r"(?:(\w+)\.)?(\w+)\(\) got an unexpected keyword argument '(\w+)'")
MISSING_ARGUMENTS = re.compile(r'\w+\(\) missing \d+ required .*?arguments?: (.*)')
# methods of mmengine's Runner, and the section of a config that each makes something from
SECTIONS = dict(
    setup_env='env_cfg',
    set_randomness='randomness',
    build_logger='log_level',
    build_train_loop='train_cfg',
    build_val_loop='val_cfg',
    build_test_loop='test_cfg',
    build_dataloader='dataloader',
    build_optim_wrapper='optim_wrapper',
    _check_scheduler_cfg='param_scheduler',
    build_param_scheduler='param_scheduler',
    build_evaluator='evaluator',
    build_log_processor='log_processor',
    build_visualizer='visualizer',
    register_default_hooks='default_hooks',
    register_custom_hooks='custom_hooks',
)
# whose names a config often uses in the other's place
SCOPES = ('mmrazor', 'mmpretrain')
IMPORTS = "Modules of your own are found if the config imports them: custom_imports = dict(imports=['my_module'])."


@contextlib.contextmanager
def explained_settings() -> Iterator[None]:
    """Answer a wrong setting of anything built inside with one message that names it, with close matches.

    mmengine's ``Registry.build`` and ``Runner`` raise a ``KeyError``, ``TypeError`` or other error below 40 lines of
    the stack. Where the error came from is read from its traceback; errors from elsewhere pass.

    Raises:
        SettingError: Something could not be built; an instance of the original error's class, too.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # any class, with any settings
        if out_of_memory(error):
            raise
        message = None
        for frame, _ in traceback.walk_tb(error.__traceback__):
            message = _message(frame, error) or message
        if message is None:
            raise
        raise raised_as(SettingError, message, error) from error


def _message(frame: FrameType, error: Exception) -> str | None:
    """Explain an error that came through a frame, if something is built in it."""
    code, values, unknown = frame.f_code, frame.f_locals, UNKNOWN_ARGUMENT.search(str(error))
    if code.co_filename == build_from_cfg.__code__.co_filename and 'registry' in values:
        cfg, registry, cls = values['cfg'], values['registry'], values.get('obj_cls')
        kind = cfg.get('type') if isinstance(cfg, Mapping) else None
        if cls is not None:
            return _explain(kind if isinstance(kind, str) else cls.__name__, cfg, cls, error)
        if isinstance(kind, str):
            scope = next((scope for scope in SCOPES if '.' not in kind and registered(f'{scope}.{kind}')), None)
            if scope:
                known = f'but in that of {scope}: add _scope_={scope!r} next to it.'
                return f'type={kind!r} is not in the scope of this {registry.name}, {known}'
            close = did_you_mean(kind.rpartition('.')[2], {*registry.module_dict, *known_types()})
            return f'type={kind!r} is not registered ({registry.name}).{close} {IMPORTS}'
        return f'a {registry.name} is built from dict(type=..., ...), found {_one_line(repr(cfg), 60)}. Give its type.'
    if code.co_filename != Runner.__init__.__code__.co_filename:
        return None
    if unknown and unknown[2] in SECTIONS:  # the method itself was called with the section
        return _explain(SECTIONS[unknown[2]], {unknown[3]: None}, getattr(Runner, unknown[2]), error)
    if code.co_name in SECTIONS:
        names = [name for name in code.co_varnames[: code.co_argcount] if name != 'self']
        # mmengine's own loops and the DataLoader come from no registry
        cls = frame.f_globals.get(unknown[1]) if unknown else None
        return _explain(SECTIONS[code.co_name], values[names[0]] if names else None, cls, error)
    return None


def _explain(what: str, settings: Any, cls: Any, error: Exception) -> str:
    given = settings if isinstance(settings, Mapping) else {}
    unknown, missing = UNKNOWN_ARGUMENT.search(str(error)), MISSING_ARGUMENTS.search(str(error))
    if isinstance(error, TypeError) and unknown and unknown[3] in given:
        return f'{what} has no setting {unknown[3]!r}.{did_you_mean(unknown[3], ["type", *_arguments_of(cls)])}'
    if isinstance(error, TypeError) and missing and not {*re.findall(r"'(\w+)'", missing[1])} & {*given}:
        found = ', '.join(str(key) for key in given if key != 'type') or 'nothing'
        return f'{what} needs {missing[1]}. Given: {found}.'
    for kind in _types_in([*given.values()]):
        if not registered(kind):
            return f'type={kind!r} in {what} is not registered.{did_you_mean(kind, known_types())} {IMPORTS}'
    settings = {key: value for key, value in given.items() if key not in ('type', '_scope_')} or settings
    return f'Could not build {what} from {_one_line(repr(settings), 200)}: {describe(error)}. Check its settings.'


def describe(error: BaseException) -> str:
    """Say on one line what was raised, and where: ``"KeyError: 'depth 19' (mmpretrain/.../resnet.py, line 471)"``."""
    text, place = _one_line(str(error), 400), ''
    if error.__traceback__:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f' ({frame.filename.rpartition("site-packages/")[2]}, line {frame.lineno})'
    return f'{type(error).__name__}{": " if text else ""}{text}{place}'


def _arguments_of(cls: Any) -> list[str]:
    """Return the settings of a class or function; of base classes, too, if it passes on what it does not know."""
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


def _one_line(text: str, length: int) -> str:
    text = ' '.join(text.split())
    return text if len(text) <= length else f'{text[: length - 3]}...'


def _types_in(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping) and isinstance(settings.get('type'), str):
        yield settings['type']
    if isinstance(settings, Mapping | list | tuple):
        for item in settings.values() if isinstance(settings, Mapping) else settings:
            yield from _types_in(item)
