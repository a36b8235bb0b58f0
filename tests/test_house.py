"""Rules of the package that no linter knows: one job per file, names with a subject, no foreign attribute assigned."""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / 'icd_mmrazor'
FILES = sorted(PACKAGE.glob('**/*.py'))
# mmengine imports icd_mmrazor.utils by name
SHIM = PACKAGE / 'utils.py'
# one job, whose name has an "and"
ONE_JOB = {'datasets/cifar.py'}
# switches that their owners document as attributes to set
SETTINGS = ('torch.backends.',)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def foreign_names(tree: ast.AST) -> set[str]:
    """Return the names that a file imports from other packages."""
    names = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name.split('.')[0]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not (node.module or '').startswith('icd_mmrazor'):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def assigned(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield everything whose attribute is set or deleted, by a statement or by ``setattr`` and its like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            target = node.value
            while isinstance(target, ast.Subscript):
                target = target.value
            if isinstance(node, ast.Attribute):
                yield target
            elif isinstance(target, ast.Call) and ast.unparse(target.func) == 'vars' and target.args:
                yield target.args[0]
            elif isinstance(target, ast.Attribute) and target.attr == '__dict__':
                yield target.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ('setattr', 'delattr', 'mock.patch.object'):
            yield node.args[0]


def foreign_assignments(code: str) -> list[str]:
    """Return what a file assigns to that it imported from another package."""
    tree = ast.parse(code)
    foreign = foreign_names(tree)
    found = []
    for target in assigned(tree):
        root = target
        while isinstance(root, ast.Attribute):
            root = root.value
        text = ast.unparse(target)
        if isinstance(root, ast.Name) and root.id in foreign and not f'{text}.'.startswith(SETTINGS):
            found.append(f'line {target.lineno}: {text}')
    return found


@pytest.mark.parametrize(
    ('code', 'count'),
    [
        ('import torch\ntorch.load = print', 1),
        ('from torch import nn\nnn.Module.forward = print', 1),
        ('import torch as t\nsetattr(t.nn, "Linear", None)', 1),
        ('import json\nvars(json)["loads"] = None', 1),
        ('import json\njson.__dict__["loads"] = None', 1),
        ('import json\ndel json.loads', 1),
        ('from icd_mmrazor import recipes\nrecipes.BASE = 1', 0),
        ('import torch\nx = torch.zeros(1)\nx.grad = None', 0),
        ('import torch\ntorch.backends.cudnn.benchmark = True', 0),
    ],
)
def test_foreign_assignments_are_found(code: str, count: int) -> None:
    assert len(foreign_assignments(code)) == count


@pytest.mark.parametrize('file', [file for file in FILES if 'compat' not in file.parts], ids=name_of)
def test_only_compat_changes_what_others_own(file: Path) -> None:
    assert foreign_assignments(file.read_text()) == []


@pytest.mark.parametrize('file', [file for file in FILES if file.name != '__init__.py'], ids=name_of)
def test_a_file_has_one_job(file: Path) -> None:
    """Said in its first line, without "and"."""
    name = str(file.relative_to(PACKAGE))
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    assert docstring
    assert name in ONE_JOB or ' and ' not in docstring.splitlines()[0]


def test_every_file_is_named_after_its_subject() -> None:
    paths = [path for path in PACKAGE.glob('**/*') if '.mim' not in path.parts and path != SHIM]
    assert [path for path in paths if path.stem in ('utils', 'helpers', 'common', 'misc')] == []
