"""The text of a config is read as data: nothing in it runs."""

import ast
import importlib.util
import io
import itertools
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from mmengine.config import Config

from icd_mmrazor.configuration.type_names import PACKAGES, TYPES, by_names, registered, type_name
from icd_mmrazor.errors import SettingError

MAX_LENGTH = 1_000_000  # characters; a config of ours has 6,000
MAX_DEPTH = 50
RESERVED = ('filename', 'text', 'pretty_text', 'env_variables')  # names that mmengine keeps to itself
CONSTANTS = {'None': None, 'True': True, 'False': False, 'inf': float('inf'), 'nan': float('nan')}
NUMBERS = ('inf', 'nan')
# settings that a network's config file may be given to
NETWORKS = ('architecture', 'cfg_path', 'student', 'teacher')
# mmrazor's recorders and deliveries of functions and methods: they import the module that these settings begin with
PATHS = ('source', 'func_path', 'method_path')
REPLACING = ('FunctionInputs', 'FunctionOutputs', 'MethodInputs', 'MethodOutputs')
# settings that mmengine imports a package for
SCOPES = ('_scope_', 'default_scope')
# files of these formats can hold code, and mmengine.load runs it; an annotation file may even be an address
FILES_OF_CODE = ('pickle', 'pkl', 'yaml', 'yml')
# they unpickle files of any name
UNPICKLING = ('RAM', 'RAMNormal', 'RefCOCO')
# what of mmrazor a distillation is made of; its quantizers, tracers, searches and loops import and read much
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
    # and a network that was pruned or searched
    'mmrazor.implementations.pruning.group_fisher.prune_deploy_sub_model',
    'mmrazor.models.mutables',
    'mmrazor.models.mutators.channel_mutator',
    'mmrazor.models.task_modules.demo_inputs',
    'mmrazor.models.task_modules.tracer.channel_analyzer',
    'mmrazor.registry.registry',
)
# packages whose functions these may record
STACK = (*PACKAGES, 'mmcv', 'torch', 'torchvision')
LAYOUT = (tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT, tokenize.ENCODING)
_REMEDY = 'It was not run as Python. If you trust where it comes from, name the config file of the run itself.'


def read_config_text(text: str, name: str) -> Config:
    """Read what mmengine's ``Config.pretty_text`` writes, without running it.

    mmengine stores this text in checkpoints (``meta['cfg']``) and in work folders. ``Config.fromfile`` would run it as
    Python. Here it may only hold assignments of plain values: ``dict(...)``, ``{...}``, lists, tuples, strings,
    numbers, ``None``, ``True``, ``False``, ``inf``, ``nan``, and the paths that mmengine writes for classes, which are
    read as their names. Models and datasets are built from what is returned, so
    plain values that would run code then are refused, too: a ``type`` that is not registered but can be imported
    (``os.system``), a scope of another package or a function of one to record, a part of mmrazor
    that no distillation is made of (some import what they are told), a config file that is no package's, a pickle or
    YAML file, and the few settings of mmpretrain that are run as they are.

    Args:
        text: The text.
        name: What it is the text of, for messages: ``"the config in FILE.pth"``.

    Returns:
        The config.

    Raises:
        SettingError: There is anything else in it, or it is too long or nested too deeply.
    """
    values = read_settings(text, name)
    _check(values, name)
    return Config(values)


def read_settings(text: str, name: str) -> dict[str, Any]:
    """Read the text of a config as plain values that are only looked at: nothing may be built from them.

    Args:
        text: The text.
        name: What it is the text of, for messages.

    Returns:
        The settings.

    Raises:
        SettingError: There is anything else than assignments of plain values, or it is too long or nested too deeply.
    """
    if not isinstance(text, str):
        raise SettingError(f'{name} is a {type(text).__name__}, not the text of a config. {_REMEDY}')
    if len(text) > MAX_LENGTH:
        raise SettingError(f'{name} is {len(text):,} characters long, a config at most {MAX_LENGTH:,}. {_REMEDY}')
    return _Reader(text, name).assignments()


def with_infinity_as_number(text: str) -> str:
    """Return the text of a config with ``1e999``, which is infinity in Python, for mmengine's ``inf``.

    Args:
        text: What ``Config.pretty_text`` of mmengine writes.
    """
    if 'inf' not in text:
        return text
    lines = text.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(iter([*lines, '']).__next__))
    for token, after in reversed(list(itertools.pairwise(tokens))):
        if token.type == tokenize.NAME and token.string == 'inf' and after.string != '=':
            (row, begin), (_, end) = token.start, token.end
            lines[row - 1] = f'{lines[row - 1][:begin]}1e999{lines[row - 1][end:]}'
    return ''.join(lines)


class _Reader:
    """Reads tokens one by one; Python's own parser has no bound that holds where the recursion limit is lifted."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.tokens = self._tokens(text)
        self.depth = 0
        self.token = next(self.tokens)

    def _tokens(self, text: str) -> Iterator[tokenize.TokenInfo]:
        try:
            yield from (t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in LAYOUT)
        except (SyntaxError, ValueError, tokenize.TokenError) as error:
            raise SettingError(f'{self.name} is no config: {error}. {_REMEDY}') from None

    def advance(self) -> tokenize.TokenInfo:
        """Return the current token and go to the next."""
        token, self.token = self.token, next(self.tokens)
        return token

    def accept(self, string: str) -> bool:
        """Go on if this is the current token."""
        found = self.token.type == tokenize.OP and self.token.string == string
        if found:
            self.advance()
        return found

    def expect(self, string: str) -> None:
        if not self.accept(string):
            self.refuse(repr(string))

    def refuse(self, expected: str) -> NoReturn:
        found = self.token.string.strip()[:40] or 'the end'
        raise SettingError(
            f'{self.name}: line {self.token.start[0]}: {expected} was expected, {found!r} found. {_REMEDY}'
        )

    def assignments(self) -> dict[str, Any]:
        values = {}
        while self.token.type != tokenize.ENDMARKER:
            if self.token.string in RESERVED:
                self.refuse("a setting's name")
            values.update([self.keyword()])
        return values

    def keyword(self) -> tuple[str, Any]:
        if self.token.type != tokenize.NAME:
            self.refuse("a setting's name")
        key = self.advance().string
        self.expect('=')
        return key, self.value()

    def value(self) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SettingError(f'{self.name} is nested more than {MAX_DEPTH} deep. {_REMEDY}')
        try:
            return self._value()
        finally:
            self.depth -= 1

    def _value(self) -> Any:
        if self.accept('['):
            return self.items(']')[0]
        if self.accept('('):
            items, commas = self.items(')')
            return tuple(items) if commas or not items else items[0]
        if self.accept('{'):
            return self.mapping()
        if self.token.type == tokenize.STRING:
            return self.string()
        if self.accept('-'):
            if self.token.type != tokenize.NUMBER and self.token.string not in NUMBERS:
                self.refuse('a number')
            return -self._value()
        if self.token.type == tokenize.NUMBER:
            return self.literal()
        if self.token.type == tokenize.NAME and self.token.string in CONSTANTS:
            return CONSTANTS[self.advance().string]
        if self.token.string == 'dict':
            self.advance()
            self.expect('(')
            return self.keywords()
        return self.path()

    def path(self) -> str:
        """Return the path that mmengine writes for a class: ``torch.optim.sgd.SGD``."""
        first = self.token
        path = self.advance().string if first.type == tokenize.NAME else ''
        while path and self.accept('.'):
            path += f'.{self.advance().string}'
        if '.' not in path:
            self.token = first
            self.refuse('a plain value')
        return path

    def items(self, end: str) -> tuple[list, int]:
        """Return the values up to ``end`` and the number of commas among them."""
        items, commas = [], 0
        while not self.accept(end):
            items.append(self.value())
            if self.accept(end):
                break
            self.expect(',')
            commas += 1
        return items, commas

    def keywords(self) -> dict:
        """Return what is between the brackets of ``dict(...)``; mmengine writes ``dict({...})``, too."""
        if self.accept('{'):
            values = self.mapping()
            self.expect(')')
            return values
        values = {}
        while not self.accept(')'):
            values.update([self.keyword()])
            if not self.accept(','):
                self.expect(')')
                break
        return values

    def mapping(self) -> dict:
        values = {}
        while not self.accept('}'):
            if self.token.type not in (tokenize.STRING, tokenize.NUMBER):
                self.refuse('a key')
            key = self.value()
            if isinstance(key, str) and not (key.isprintable() and not {"'", '\\'} & {*key}):
                # mmengine writes keys as they are: such a one would be code in a config that is written
                raise SettingError(f'{self.name}: {key!r} is no name of a setting. {_REMEDY}')
            self.expect(':')
            values[key] = self.value()
            if not self.accept(','):
                self.expect('}')
                break
        return values

    def string(self) -> str:
        parts = []
        while self.token.type == tokenize.STRING:
            if self.token.string[0] not in '\'"':  # f'' holds code
                self.refuse('a plain string')
            parts.append(self.literal())
        return ''.join(parts)

    def literal(self) -> Any:
        try:
            value = ast.literal_eval(self.token.string)
        except (SyntaxError, ValueError):
            self.refuse('a plain value')
        self.advance()
        return value


def _check(value: Any, name: str) -> None:
    """Refuse what would run code if it were built."""
    replacing = isinstance(value, dict) and type_name(value.get('type')).startswith(REPLACING)
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if replacing and key in PATHS and str(item).partition('.')[0] not in STACK:
            raise SettingError(
                f'{name}: {key}={item!r} of a {value["type"]} is in none of {", ".join(STACK)}, and mmrazor would '
                f'import it. {_REMEDY}'
            )
        if isinstance(item, dict | list | tuple):
            _check(item, name)
            continue
        reason = _runs(key, item)
        if reason:
            raise SettingError(f'{name}: {key}={item!r} {reason}. {_REMEDY}')


def _runs(key: Any, item: Any) -> str | None:
    """Return what code would run if a setting were built, None if none would."""
    if key == 'trust_remote_code' and item:
        return 'would run code from a model hub'
    if not isinstance(item, str):
        return None
    # icd_mmrazor reads that of a subnet as plain values, whatever its format
    if item.rpartition('.')[2] in FILES_OF_CODE and (key != 'fix_subnet' or '://' in item):
        return 'names a pickle or YAML file, and reading it could run code'
    if key == 'type' and type_name(item) in UNPICKLING:
        return 'reads pickles, which could run code'
    found = registered(item) if key in TYPES else []
    if any(_is_beyond_distillation(each) for each in found):
        return 'is a part of mmrazor that no distillation needs, and some of those import and read what they are told'
    if key in TYPES and not found and _importable(item):
        return f'is registered nowhere in {", ".join(PACKAGES)}, and mmengine would import and call it'
    if key in SCOPES and item not in PACKAGES:
        return f'is none of {", ".join(PACKAGES)}, and mmengine would import it'
    if (item.endswith('.py') or (key in NETWORKS and '::' in item)) and not _of_package(item):
        return 'names a file, and reading it would run it'
    if key == 'dtype' and not item.removeprefix('torch.').isidentifier():
        return 'is no data type, and mmpretrain would run it'
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


def config_of(checkpoint: Mapping[str, Any], what: str) -> Config:
    """Return the config that mmengine has stored in a checkpoint; it is read, not run.

    Args:
        checkpoint: What was read from the file.
        what: The file, for messages.

    Raises:
        SettingError: There is none in it, or it holds more than plain values.
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not text:
        raise SettingError(
            f"checkpoint {what} does not say its config: it has no meta['cfg'], which mmengine writes. "
            'Name the config it was trained with.'
        )
    return by_names(read_config_text(text, f'the config in {what}'))
