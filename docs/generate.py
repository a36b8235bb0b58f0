"""Pages, tables and metafiles that follow from the configs.

The facts of a method stand in its config, ``configs/_base_/methods/METHOD.py``: the first comment names it, the
docstring holds its paper, a description in Markdown and the BibTeX entry. The published accuracies stand in
``tools/benchmarks/published_cifar100.csv``. From these come

- ``configs/METHOD/``: the page and the example config of each method,
- ``configs/metafile.yml``, which names all configs for mim and mmengine; ``model-index.yml`` points to it,
- the tables of ``README.md``, ``docs/*.md`` and ``configs/vanilla/README.md`` between the comments
  ``<!-- zoo: NAME -->`` and ``<!-- end -->``.

``python docs/generate.py`` writes what has changed; with ``--check`` it lists the stale files and fails.
"""

import argparse
import ast
import csv
import functools
import os
import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

import icd_mmrazor  # noqa: F401

# isort: split
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor import recipes
from icd_mmrazor.models.networks.resolve import network_config

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE_PAIR = 'res32x4_res8x4_cifar100'
BENCHMARK = 'the tables of the CRD benchmark ([arXiv 1910.10699](https://arxiv.org/abs/1910.10699))'
TRAINING_DATA = {'cifar100': 'CIFAR-100', 'cifar10': 'CIFAR-10', 'cifar10-16k': 'CIFAR-10', 'in1k': 'ImageNet-1k'}
NOT_RUN = '**We have not run any of these cells**: CIFAR-100 was not available to us.'
METAFILE_HEADER = '# Written by docs/generate.py. No Results or Weights: we have not trained any of these configs.\n'


class Family(NamedTuple):
    """Networks of one paper."""

    pattern: str  # of their names
    name: str
    url: str
    title: str


ARXIV = 'https://arxiv.org/abs'
RESNET = (f'{ARXIV}/1512.03385', 'Deep Residual Learning for Image Recognition')
VGG = 'Very Deep Convolutional Networks for Large-Scale Image Recognition'
MOBILENET = 'MobileNetV2: Inverted Residuals and Linear Bottlenecks'
SHUFFLENET = 'ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices'
SHUFFLENET_V2 = 'ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design'
# in the order of the tables
FAMILIES = (
    Family(r'res(?!50$).*', 'CIFAR ResNet', *RESNET),
    Family(r'wrn.*', 'Wide ResNet', f'{ARXIV}/1605.07146', 'Wide Residual Networks'),
    Family(r'vgg.*', 'VGG', f'{ARXIV}/1409.1556', VGG),
    Family(r'res50', 'ResNet-50', *RESNET),
    Family(r'mobilenetv2', 'MobileNetV2', f'{ARXIV}/1801.04381', MOBILENET),
    Family(r'shufflenetv1', 'ShuffleNetV1', f'{ARXIV}/1707.01083', SHUFFLENET),
    Family(r'shufflenetv2', 'ShuffleNetV2', f'{ARXIV}/1807.11164', SHUFFLENET_V2),
)


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
        self.source = facts.get('published', f'Source: {BENCHMARK}.')
        self.also_called = facts.get('also_called', '')
        self.initial_epochs = cfg[self.name].get('initial_epochs', 0)
        self.variants = [name for name in cfg if name != self.name]
        # one that does not fit the usual pair names another
        self.pair = facts.get('example_pair', EXAMPLE_PAIR)
        self.example = f'{self.name}_{self.pair}.py'


@functools.cache
def published(root: Path) -> dict[str, dict[str, str]]:
    """Return the published accuracies by method and pair."""
    lines = (root / 'tools' / 'benchmarks' / 'published_cifar100.csv').read_text().splitlines()
    header, *rows = csv.reader(line for line in lines if not line.startswith('#'))
    return {name: {pair: value or '-' for pair, value in zip(header[1:], row, strict=True)} for name, *row in rows}


def methods(root: Path) -> list[Method]:
    """Return all methods: those of the published table in its order, then the others by name."""
    order = [name.lower() for name in published(root)]
    found = [Method(file) for file in sorted((root / 'configs' / '_base_' / 'methods').glob('*.py'))]
    return sorted(found, key=lambda method: order.index(method.name) if method.name in order else len(order))


def table(header: list[str], rows: list[list[str]], numbers: int = 0) -> str:
    """Return a Markdown table whose last columns, so many, are numbers."""
    rule = ['---'] * (len(header) - numbers) + ['---:'] * numbers
    lines = [f'| {" | ".join(header)} |'.replace('|  |', '| |'), f'|{"|".join(rule)}|']
    return '\n'.join([*lines, *(f'| {" | ".join(row)} |' for row in rows)]) + '\n'


def published_rows(root: Path, method: Method) -> list[str]:
    """Return the names under which the published table has a method: alone, with KD, older versions."""
    names = [name for name in published(root) if re.split(r'\+|_', name)[0] == method.label]
    return sorted(names, key=lambda name: '_v' in name)


def page(root: Path, method: Method) -> str:
    """Return ``configs/METHOD/README.md``."""
    name, parts = method.name, [f'# {method.label}\n']
    if method.url:
        parts.append(f'> [{method.title}]({method.url}), {method.authors}\n')
    parts.append('<!-- [ALGORITHM] -->\n')
    parts.append(f'<!-- Written by docs/generate.py from configs/_base_/methods/{name}.py. -->\n')
    if method.text:
        parts.append(f'{method.text}\n')
    if '## How to use it' not in method.text:
        other = 'at' if name == 'kd' else 'kd'
        front = 'python tools/benchmarks/train.py'
        parts.append(
            '## How to use it\n\n'
            '```bash\n'
            f'python tools/train.py configs/{name}/{method.example}\n'
            f'{front} {name} PAIR      # on any pair; --list shows them and what each needs\n'
            f'{front} {name}+{other} PAIR   # together with another method\n'
            '```\n\n'
            'Distillation needs a trained teacher: see [vanilla](../vanilla/README.md).\n'
        )
    if columns := published_rows(root, method):
        columns = ['teacher', 'student', *columns]
        values = [[published(root)[column][pair] for column in columns] for pair in published(root)['teacher']]
        rows = [[f'`{pair}`', *row] for pair, row in zip(published(root)['teacher'], values, strict=True)]
        header = ['pair', *('student alone' if column == 'student' else column for column in columns)]
        parts.append(
            '## Published results\n\n'
            f'Top-1 accuracy (%) on CIFAR-100. {method.source}\n{NOT_RUN}\n\n{table(header, rows, len(columns))}'
        )
        if any('-' in row for row in values):
            parts.append('-: the widths differ, so the method does not apply.\n')
        parts.append('All methods side by side: [model zoo](../../docs/model_zoo.md).\n')
    if method.bibtex:
        parts.append(f'## Citation\n\n```bibtex\n{method.bibtex}```\n')
    return '\n'.join(parts)


def example(method: Method) -> str:
    """Return the example config of a method, ``configs/METHOD/METHOD_res32x4_res8x4_cifar100.py``."""
    name, lines = method.name, []
    lines.append(f"_base_ = ['../_base_/pairs/{method.pair}.py', '../_base_/methods/{name}.py']")
    lines.append(f"model = dict(distiller=_base_.pop('{name}'))")
    if method.variants:
        lines.append('# the variants are not for a method alone')
        lines += [f"_base_.pop('{variant}')" for variant in method.variants]
    if method.initial_epochs:
        lines += [
            f'# an initial stage of {method.initial_epochs} epochs comes before the schedule',
            f'train_cfg = dict(max_epochs={240 + method.initial_epochs})',
            f'param_scheduler = dict(begin={method.initial_epochs})',
            '# with several processes: each stage leaves some parameters unused',
            'find_unused_parameters = True',
        ]
    return '\n'.join(lines) + '\n'


@functools.cache
def vanilla(root: Path, network: str, data: str) -> tuple[Config, int]:
    """Return the config that trains a network alone, and the number of the network's parameters."""
    cfg = Config.fromfile(root / 'configs' / 'vanilla' / f'{network}_{data}.py')
    return cfg, sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())


def family_of(network: str) -> Family:
    """Return the family that a network belongs to."""
    return next(family for family in FAMILIES if re.fullmatch(family.pattern, network))


def networks(root: Path) -> list[str]:
    """Return the names of the CIFAR networks, by family, width and depth."""
    names = (file.stem for file in (root / 'configs' / '_base_' / 'models').glob('*.py'))
    return sorted(
        names, key=lambda name: (FAMILIES.index(family_of(name)), 'x' in name, [*map(int, re.findall(r'\d+', name))])
    )


def model_entry(root: Path, config: str, collection: str) -> dict:
    """Return the entry of a config in the metafile."""
    stem = Path(config).stem
    *named, data = stem.split('_')
    metadata = {'Training Data': TRAINING_DATA[data]}
    if data == 'in1k':
        # an example that is yet to be written has the networks of its pair
        pair = root / 'configs' / '_base_' / 'pairs' / f'{stem.partition("_")[2]}.py'
        cfg = Config.fromfile(pair if pair.is_file() else root / config).model
        student = MODELS.build(network_config(cfg.architecture, 'model.architecture'))
        metadata['Parameters'] = sum(parameter.numel() for parameter in student.parameters())
        configs = (cfg.teacher.cfg_path, cfg.architecture.cfg_path)
    else:
        metadata['Parameters'] = vanilla(root, named[-1], data)[1]
        # the name of a method may have an underscore
        configs = tuple(f'icd_mmrazor::vanilla/{network}_{data}.py' for network in named[1:][-2:])
    metadata |= {role: dict(Config=path) for role, path in zip(('Teacher', 'Student'), configs, strict=False)}
    return {'Name': stem, 'In Collection': collection, 'Metadata': metadata, 'Config': config}


def collection(name: str, title: str, url: str, folder: str, also_called: str = '') -> dict:
    """Return the entry of a method, or of a family of networks, in the metafile."""
    entry: dict = {'Name': name, 'Metadata': {'Training Data': 'CIFAR-100'}}
    if also_called:
        entry['Metadata']['Also Called'] = also_called
    if url:
        entry['Paper'] = dict(Title=title, URL=url)
    return {**entry, 'README': f'configs/{folder}/README.md'}


def metafile(root: Path) -> str:
    """Return ``configs/metafile.yml``: the families of networks and the methods, then the configs of each."""
    collections = [collection(family.name, family.title, family.url, 'vanilla') for family in FAMILIES]
    models = [
        model_entry(root, f'configs/vanilla/{file.name}', family_of(network).name)
        for network in networks(root)
        for file in sorted((root / 'configs' / 'vanilla').glob(f'{network}_*.py'))
    ]
    for method in methods(root):
        name = method.name
        collections.append(collection(method.label, method.title, method.url, name, method.also_called))
        files = {file.name for file in (root / 'configs' / name).glob('*.py')} | {method.example}
        models += [model_entry(root, f'configs/{name}/{file}', method.label) for file in sorted(files)]
    content = dict(Collections=collections, Models=models)
    return METAFILE_HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def method_table(root: Path, folder: Path) -> str:
    """Return the table ``methods``: all methods, what their loss is and which features it compares."""
    rows = []
    for method in methods(root):
        link = os.path.relpath(root / 'configs' / method.name / 'README.md', folder)
        about = f'{method.title}, {method.authors}' if method.url else ''
        rows.append([f'[`{method.name}`]({link})', about, method.loss, method.features])
    return table(['name', 'paper', 'loss', 'features'], rows)


def needs_table(root: Path) -> str:
    """Return the table ``needs``: what each method needs of networks and images, by its config and its losses."""
    columns = ('pooled', 'logits', 'maps', 'preactivations', 'blocks', 'labels', 'positions')
    names = ('pooled feature', 'logits', 'maps', 'pre-activations', 'blocks', 'labels', 'positions')
    rows = []
    for method in methods(root):
        needs = recipes.needs_of(method.name)
        mixes = 'yes' if 'labels' not in needs else 'Mixup only' if 'scores' in needs else 'no'
        fits = ['no' if 'logits' in needs else 'yes', mixes]
        rows.append([f'`{method.name}`', *('x' if column in needs else '' for column in columns), *fits])
    return table(['', *names, 'teacher without classifier', 'Mixup, images without labels'], rows)


def paper_table(root: Path, folder: Path) -> str:
    """Return the table ``papers``: all methods with the paper and a config."""
    rows = []
    for method in methods(root):
        configs = os.path.relpath(root / 'configs' / method.name, folder)
        about = f'[{method.authors}]({method.url})' if method.url else ''
        config = f'[`{method.example}`]({configs}/{method.example})'
        rows.append([f'[{method.label}]({configs}/README.md)', about, config])
    return table(['method', 'paper', 'config'], rows)


def network_table(root: Path, folder: Path) -> str:
    """Return the table ``networks``: the CIFAR networks, their sizes and published accuracies."""
    accuracies = {}
    for pair in published(root)['teacher']:
        for network, role in zip(pair.split('_'), ('teacher', 'student'), strict=True):
            accuracies[network] = published(root)[role][pair]
    converter = runpy.run_path(str(root / 'tools' / 'model_converters' / 'repdistiller_to_mmpretrain.py'))
    published_names = {ours: name for name, ours in converter['ARCHITECTURES'].items()}
    rows = []
    for network in networks(root):
        cfg, parameters = vanilla(root, network, 'cifar100')
        link = os.path.relpath(root / 'configs' / 'vanilla' / f'{network}_cifar100.py', folder)
        numbers = [f'{parameters:,}', str(cfg.model.head.in_channels), str(cfg.optim_wrapper.optimizer.lr)]
        names = [f'[`{network}`]({link})', f'`{published_names.get(network, network)}`']
        rows.append([*names, *numbers, accuracies.get(network, '-')])
    header = ['network', 'published name', 'parameters', 'feature width', 'learning rate', 'published accuracy (%)']
    return table(header, rows, 4)


def published_table(root: Path, same_family: bool) -> str:
    """Return the tables ``same family`` and ``other family``: the published accuracies of all methods."""
    pairs = [
        pair
        for pair in published(root)['teacher']
        if (len({family_of(network) for network in pair.split('_')}) == 1) == same_family
    ]
    rows = [[name, *(values[pair] for pair in pairs)] for name, values in published(root).items()]
    return table(['', *(pair.replace('_', '<br>') for pair in pairs)], rows, len(pairs))


def with_tables(root: Path, file: Path) -> str:
    """Return a page with the tables between its comments made again."""
    makers = {
        'methods': lambda: method_table(root, file.parent),
        'needs': lambda: needs_table(root),
        'papers': lambda: paper_table(root, file.parent),
        'networks': lambda: network_table(root, file.parent),
        'same family': lambda: published_table(root, same_family=True),
        'other family': lambda: published_table(root, same_family=False),
    }

    def replace(found: re.Match) -> str:
        return f'<!-- zoo: {found[1]} -->\n\n{makers[found[1]]()}\n<!-- end -->'

    return re.sub(r'<!-- zoo: ([\w ]+) -->\n.*?<!-- end -->', replace, file.read_text(), flags=re.DOTALL)


def generate(root: Path = ROOT) -> dict[Path, str]:
    """Return the text of every file that follows from the configs.

    Args:
        root: The top of the repository, or of a copy of ``configs``, ``docs`` and ``tools``.
    """
    configs, texts = root / 'configs', {}
    for method in methods(root):
        folder = configs / method.name
        texts[folder / 'README.md'] = page(root, method)
        texts[folder / method.example] = example(method)
    texts[configs / 'metafile.yml'] = metafile(root)
    for file in (root / 'README.md', *sorted((root / 'docs').glob('*.md')), configs / 'vanilla' / 'README.md'):
        if file.is_file() and '<!-- zoo: ' in file.read_text():
            texts[file] = with_tables(root, file)
    return texts


def main() -> None:
    """Write the stale files, or list them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='list the stale files instead, and fail if there are any')
    check = parser.parse_args().check
    texts = generate()
    stale = [file for file, text in texts.items() if not file.is_file() or file.read_text() != text]
    for file in stale:
        print(f'{"stale" if check else "written"}: {file.relative_to(ROOT)}')
        if not check:
            file.parent.mkdir(exist_ok=True)
            file.write_text(texts[file])
    if stale and check:
        sys.exit('Run `make docs`.')


if __name__ == '__main__':
    main()
