"""Stored configs, read as data: nothing in them runs."""

import ast
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from mmengine.config import Config

from icd_mmrazor.configuration.policy import code_that_runs
from icd_mmrazor.configuration.type_names import by_names
from icd_mmrazor.errors import SettingError

MAX_LENGTH = 1_000_000  # characters; a config of ours has 6,000
MAX_DEPTH = 50
RESERVED = ('filename', 'text', 'pretty_text', 'env_variables')  # names that mmengine keeps to itself
NUMBERS = {'inf': float('inf'), 'nan': float('nan')}
_REMEDY = 'It was not run as Python. If you trust its origin, give the config file of the run itself.'


def config_of(checkpoint: Mapping[str, Any], what: str) -> Config:
    """Return the config that mmengine stores in a checkpoint; ``what`` is its file, for messages.

    Raises:
        SettingError: There is no config in it, or it holds more than plain values.
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not text:
        raise SettingError(
            f"checkpoint {what} has no config (meta['cfg'] of mmengine). Give the config it was trained with."
        )
    return by_names(read_config_text(text, f'the config in {what}'))


def read_config_text(text: str, name: str) -> Config:
    """Read the text of a config (``Config.pretty_text``) from a checkpoint or a work folder.

    ``Config.fromfile`` would run it as Python. Models and datasets are built from the result, so plain values that
    would run code when they are built are refused as well: see :mod:`icd_mmrazor.configuration.policy`.

    Args:
        text: The text.
        name: Its origin, for messages: ``"the config in FILE.pth"``.

    Raises:
        SettingError: The text holds anything but plain values, or a value would run code.
    """
    values = read_settings(text, name)
    if problem := code_that_runs(values):
        raise SettingError(f'{name}: {problem}. {_REMEDY}')
    return Config(values)


def read_settings(text: str, name: str) -> dict[str, Any]:
    """Read the text of a config as plain values to look at; nothing may be built from them.

    Allowed are assignments of strings, numbers, ``None``, ``True``, ``False``, ``inf``, ``nan``, lists, tuples,
    ``dict(...)``, ``{...}`` and dotted paths, which mmengine writes for classes and which are read as strings.
    Arguments are as in :func:`read_config_text`.

    Raises:
        SettingError: The text holds anything else, is too long or nested too deeply.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        found = f'{len(text):,} characters long' if isinstance(text, str) else f'a {type(text).__name__}'
        raise SettingError(f'{name} is {found}, not the text of a config. {_REMEDY}')
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise SettingError(f'{name} is not a config: {type(error).__name__}: {error}. {_REMEDY}') from None
    reader = _Reader(text, name)
    return dict(reader.assignment(statement) for statement in body)


def with_infinity_as_number(text: str) -> str:
    """Replace ``inf`` in the text of a config by ``1e999``, which is infinity in Python."""
    if not re.search(r'\binf\b', text):
        return text
    lines = text.encode().splitlines(keepends=True)
    names = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name) and node.id == 'inf']
    names = [node for node in names if isinstance(node.ctx, ast.Load)]
    for node in sorted(names, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = line[: node.col_offset] + b'1e999' + line[node.end_col_offset :]
    return b''.join(lines).decode()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name

    def assignment(self, statement: ast.stmt) -> tuple[str, Any]:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in RESERVED:
                return name, self.value(value, 1)
        return self.refuse(statement, 'an assignment to a setting')

    def value(self, node: ast.expr, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise SettingError(f'{self.name} is nested more than {MAX_DEPTH} levels deep. {_REMEDY}')
        inner = depth + 1
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return value
            case ast.Name(id=name) if name in NUMBERS:
                return NUMBERS[name]
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) | ast.Name() as number):
                return -self.value(number, inner)
            case ast.List(elts=items):
                return [self.value(item, inner) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self.value(item, inner) for item in items)
            case ast.Dict(keys=keys, values=values):
                return {self.key(key or node): self.value(v, inner) for key, v in zip(keys, values, strict=True)}
            case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as mapping], keywords=[]):
                return self.value(mapping, depth)
            case ast.Call(func=ast.Name(id='dict'), args=[], keywords=keywords) if all(k.arg for k in keywords):
                return {keyword.arg: self.value(keyword.value, inner) for keyword in keywords}
            case ast.Attribute():
                return self.path(node)
        return self.refuse(node, 'a plain value')

    def key(self, node: ast.expr) -> str | int | float:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str | int | float):
            self.refuse(node, 'a key')
        # mmengine does not escape keys when it writes them: such a key would be code in a config file
        if isinstance(node.value, str) and not (node.value.isprintable() and not {"'", '\\'} & {*node.value}):
            self.refuse(node, "a setting's name")
        return node.value

    def path(self, node: ast.expr) -> str:
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            self.refuse(node, 'a plain value')
        return '.'.join([node.id, *reversed(names)])

    def refuse(self, node: ast.stmt | ast.expr, expected: str) -> NoReturn:
        found = (ast.get_source_segment(self.text, node) or '').partition('\n')[0][:40]
        raise SettingError(f'{self.name}, line {node.lineno}: expected {expected}, found {found!r}. {_REMEDY}')
