"""The text of config files that people read."""

import keyword
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 100


class Expression(str):
    """Python code that stands in a config as it is."""


def config_text(title: str, bases: Sequence[str], settings: Mapping[str, Any], code: Sequence[str] = ()) -> str:
    """Return the text of a config file.

    Args:
        title: The comment on its first line.
        bases: What it inherits from.
        settings: Its own settings: plain values, and :class:`Expression`.
        code: Lines of Python before the settings.
    """
    lines = [f'# {title}', f'_base_ = [{", ".join(map(repr, bases))}]', *code]
    lines += [f'{name} = {as_code(value, len(name) + 3)}' for name, value in settings.items()]
    return '\n'.join(lines) + '\n'


def as_code(value: Any, used: int = 0, indent: int = 0) -> str:
    """Return a setting as Python, on one line if it is short.

    Args:
        value: The setting.
        used: How much of its first line is taken.
        indent: How deep its line is indented.
    """
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if not isinstance(value, Mapping | list | tuple) or not value:
        return 'dict()' if isinstance(value, Mapping) else repr(value)
    begin, end, items = _parts(value, indent)
    line = (
        f'{begin}{", ".join(_parts(value, None)[2])}{"," if isinstance(value, tuple) and len(value) == 1 else ""}{end}'
    )
    if used + len(line) <= WIDTH and '\n' not in line:
        return line
    inner = ' ' * (indent + 4)
    return f'{begin}\n' + ''.join(f'{inner}{item},\n' for item in items) + ' ' * indent + end


def _parts(value: Mapping | Sequence, indent: int | None) -> tuple[str, str, list[str]]:
    """Return what a container begins and ends with, and its items; on one line if ``indent`` is None."""

    def code(item: Any, name: str = '') -> str:
        if indent is None:
            return as_code(item, -(10**9))
        return as_code(item, indent + 4 + len(name) + 1, indent + 4)

    if not isinstance(value, Mapping):
        begin, end = '[]' if isinstance(value, list) else '()'
        return begin, end, [code(item) for item in value]
    # what it is comes first
    keys = sorted(value, key=lambda key: (key not in ('_delete_', '_scope_'), key != 'type'))
    if all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in keys):
        return 'dict(', ')', [f'{key}={code(value[key], key)}' for key in keys]
    return '{', '}', [f'{key!r}: {code(value[key], repr(key))}' for key in keys]
