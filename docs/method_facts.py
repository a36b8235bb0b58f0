"""The facts of methods, as their configs state them."""

import ast
import functools
import re
from pathlib import Path

import icd_mmrazor  # noqa: F401

# isort: split
from mmengine.config import Config
from published_values import ROLES, names_of, values

from icd_mmrazor.models.networks.changed_student import changing_distiller

EXAMPLE_PAIR = 'res32x4_res8x4_cifar100'


class Method:
    """The facts of a method, as its config states them; everything but the distiller may be missing."""

    def __init__(self, file: Path) -> None:
        code, cfg, self.name = file.read_text(), Config.fromfile(file), file.stem
        first = code.splitlines()[0]
        self.label = first.removeprefix('#').partition(':')[0].strip() if first.startswith('#') else self.name
        head, _, text = (ast.get_docstring(ast.parse(code), clean=False) or '').strip().partition('\n\n')
        text, _, bibtex = text.partition('```bibtex\n')
        self.text, self.bibtex = text.strip(), bibtex.removesuffix('```')
        title = re.search(r'^\s*title\s*= \{(.*)\},?$', self.bibtex, re.MULTILINE)
        self.title = re.sub(r'[{}]', '', title[1]) if title else ''
        facts = dict(re.findall(r'^(\w+): (.*)$', head, re.MULTILINE))
        self.url, _, self.authors = facts.get('paper', '').partition(', ')
        self.loss, self.features = facts.get('loss', ''), facts.get('features', '')
        self.also_called = facts.get('also_called', '')
        self.initial_epochs = cfg[self.name].get('initial_epochs', 0)
        # one that changes the student
        self.changer = cfg[self.name] if changing_distiller(cfg[self.name]) else None
        self.dataset = f'{self.name}_dataset' in cfg
        # whether it changes other settings of the run, too
        self.settings = f'{self.name}_settings' in cfg
        self.variants = [name for name in cfg if name.removeprefix(self.name) not in ('', '_dataset', '_settings')]
        # one that does not fit the usual pair names another
        self.pair = facts.get('example_pair', EXAMPLE_PAIR)
        self.example = f'{self.name}_{self.pair}.py'


@functools.cache
def methods(root: Path) -> list[Method]:
    """Return all methods: those with published accuracies in their order, then the others by name."""
    order = list(dict.fromkeys(names_of(value.method)[0] for value in values(root) if value.method not in ROLES))
    found = [Method(file) for file in sorted((root / 'configs' / '_base_' / 'methods').glob('*.py'))]
    return sorted(found, key=lambda method: order.index(method.name) if method.name in order else len(order))


def table(header: list[str], rows: list[list[str]], numbers: int = 0) -> str:
    """Return a Markdown table whose last columns, so many, are numbers."""
    rule = ['---'] * (len(header) - numbers) + ['---:'] * numbers
    lines = [f'| {" | ".join(header)} |'.replace('|  |', '| |'), f'|{"|".join(rule)}|']
    return '\n'.join([*lines, *(f'| {" | ".join(row)} |' for row in rows)]) + '\n'
