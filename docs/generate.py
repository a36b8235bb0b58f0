"""Pages, tables and metafiles that follow from the configs.

The facts of a method stand in its config, ``configs/_base_/methods/METHOD.py``: the first comment names it, the
docstring holds its paper, a description in Markdown and the BibTeX entry. The published accuracies stand in
``tools/benchmarks/published.csv``, with their sources in ``published_sources.csv`` next to it. From these come

- ``configs/METHOD/``: the page and the example config of each method,
- ``configs/metafile.yml``, which names all configs for mim and mmengine; ``model-index.yml`` points to it,
- the tables of ``README.md``, ``docs/*.md`` and ``configs/vanilla/README.md`` between the comments
  ``<!-- zoo: NAME -->`` and ``<!-- end -->``.

``python docs/generate.py`` writes what has changed; with ``--check`` it lists the stale files and fails.
"""

import argparse
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
from method_facts import Method, methods, table
from mmengine.config import Config
from mmrazor.registry import MODELS
from published_tables import missing_methods, other_table, overview, results_of, sections, source_table
from published_values import alone

from icd_mmrazor import recipes
from icd_mmrazor.models.networks.changed_student import changed_config
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.workflow.config_text import Expression, as_code

ROOT = Path(__file__).resolve().parents[1]
TRAINING_DATA = {'cifar100': 'CIFAR-100', 'cifar10': 'CIFAR-10', 'in1k': 'ImageNet-1k'}
METAFILE_HEADER = '# Written by docs/generate.py. No Results or Weights: we have not trained any of these configs.\n'


class Family(NamedTuple):
    """Networks of one paper."""

    pattern: str  # of their names
    name: str
    url: str
    title: str
    data: str = 'CIFAR-100'


ARXIV = 'https://arxiv.org/abs'
RESNET = (f'{ARXIV}/1512.03385', 'Deep Residual Learning for Image Recognition')
VGG = 'Very Deep Convolutional Networks for Large-Scale Image Recognition'
MOBILENET = 'MobileNetV2: Inverted Residuals and Linear Bottlenecks'
SHUFFLENET = 'ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices'
SHUFFLENET_V2 = 'ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design'
HKD = 'Heterogeneous Knowledge Distillation using Information Flow Modeling'
PREACT = 'Identity Mappings in Deep Residual Networks'
# in the order of the tables
FAMILIES = (
    Family(r'res(?!50$).*', 'CIFAR ResNet', *RESNET),
    Family(r'wrn.*', 'Wide ResNet', f'{ARXIV}/1605.07146', 'Wide Residual Networks'),
    Family(r'vgg.*', 'VGG', f'{ARXIV}/1409.1556', VGG),
    Family(r'res50', 'ResNet-50', *RESNET),
    Family(r'mobilenetv2', 'MobileNetV2', f'{ARXIV}/1801.04381', MOBILENET),
    Family(r'shufflenetv1', 'ShuffleNetV1', f'{ARXIV}/1707.01083', SHUFFLENET),
    Family(r'shufflenetv2', 'ShuffleNetV2', f'{ARXIV}/1807.11164', SHUFFLENET_V2),
    Family(r'cnn1.*', 'CNN-1', f'{ARXIV}/2005.00727', HKD, 'CIFAR-10'),
    Family(r'preact18', 'Pre-activation ResNet', f'{ARXIV}/1603.05027', PREACT, 'CIFAR-10'),
)


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
            f'{front} {name} PAIR      # on any pair that it fits; --list shows them\n'
            f'{front} {name}+{other} PAIR   # together with another method\n'
            '```\n\n'
            'Distillation needs a trained teacher: see [vanilla](../vanilla/README.md).\n'
        )
    if results := results_of(root, method, root / 'configs' / name):
        parts.append(results)
    if method.bibtex:
        parts.append(f'## Citation\n\n```bibtex\n{method.bibtex}```\n')
    return '\n'.join(parts)


def example(method: Method) -> str:
    """Return the example config of a method, ``configs/METHOD/METHOD_res32x4_res8x4_cifar100.py``."""
    name, lines = method.name, []
    lines.append(f"_base_ = ['../_base_/pairs/{method.pair}.py', '../_base_/methods/{name}.py']")
    settings = recipes.settings_of([name], method.pair)
    model = {**settings.pop('model', {}), 'distiller': Expression(f"_base_.pop('{name}')")}
    lines += [f'{key} = {as_code(value, len(key) + 3)}' for key, value in {'model': model, **settings}.items()]
    if method.dataset:
        lines += [
            '# the method needs another training set, around that of the pair',
            'train_dataloader = dict(',
            f"    dataset=dict(_delete_=True, dataset=_base_.train_dataloader.dataset, **_base_.pop('{name}_dataset'))",
            ')',
        ]
    others = [*method.variants, *([f'{name}_settings'] if method.settings else [])]
    if others:
        lines.append('# settings for other pairs, or for use with other methods')
        lines += [f"_base_.pop('{other}')" for other in others]
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


def model_entry(root: Path, config: str, collection: str, changer: dict | None = None) -> dict:
    """Return the entry of a config in the metafile; a student that a distiller changes is counted as it is then."""
    stem = Path(config).stem
    *named, data = stem.split('_')
    metadata = {'Training Data': TRAINING_DATA[data.partition('-')[0]]}
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
    if changer:
        teacher, student = (vanilla(root, network, data)[0].model for network in named[1:])
        student = MODELS.build(changed_config(dict(teacher=teacher, architecture=student, distiller=changer)))
        metadata['Parameters'] = sum(parameter.numel() for parameter in student.parameters())
        metadata['Student']['Remark'] = student.change
    return {'Name': stem, 'In Collection': collection, 'Metadata': metadata, 'Config': config}


def collection(name: str, title: str, url: str, folder: str, also_called: str = '', data: str = 'CIFAR-100') -> dict:
    """Return the entry of a method, or of a family of networks, in the metafile."""
    entry: dict = {'Name': name, 'Metadata': {'Training Data': data}}
    if also_called:
        entry['Metadata']['Also Called'] = also_called
    if url:
        entry['Paper'] = dict(Title=title, URL=url)
    return {**entry, 'README': f'configs/{folder}/README.md'}


def metafile(root: Path) -> str:
    """Return ``configs/metafile.yml``: the families of networks and the methods, then the configs of each."""
    collections = [
        collection(family.name, family.title, family.url, 'vanilla', data=family.data) for family in FAMILIES
    ]
    models = [
        model_entry(root, f'configs/vanilla/{file.name}', family_of(network).name)
        for network in networks(root)
        for file in sorted((root / 'configs' / 'vanilla').glob(f'{network}_*.py'))
    ]
    for method in methods(root):
        name = method.name
        collections.append(collection(method.label, method.title, method.url, name, method.also_called))
        files = {file.name for file in (root / 'configs' / name).glob('*.py')} | {method.example}
        models += [model_entry(root, f'configs/{name}/{file}', method.label, method.changer) for file in sorted(files)]
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


# what a method may need, by the words of recipes.needs_of: the columns of the table "needs"
NEEDS = {
    'pooled': 'pooled feature',
    'logits': 'logits',
    'classifier': "teacher's classifier",
    'maps': 'maps',
    'tokens': 'tokens',
    'preactivations': 'pre-activations',
    'blocks': 'blocks',
    'labels': 'labels',
    'positions': 'positions',
    'views': 'two views',
}


def needs_table(root: Path) -> str:
    """Return the table ``needs``: what each method needs of networks and images, by its config and its losses."""
    needs_of = {method.name: recipes.needs_of(method.name) for method in methods(root)}
    needed = set().union(*needs_of.values())
    columns = {key: name for key, name in NEEDS.items() if key in needed}
    rows = []
    for method, needs in needs_of.items():
        mixes = 'no' if needs & {'views', 'unmixed'} or ('labels' in needs and 'scores' not in needs) else 'yes'
        fits = ['no' if needs & {'logits', 'classifier'} else 'yes', mixes, 'no' if 'labels' in needs else 'yes']
        rows.append([f'`{method}`', *('x' if key in needs else '' for key in columns), *fits])
    return table(['', *columns.values(), 'teacher without classifier', 'Mixup', 'images without labels'], rows)


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
    """Return the table ``networks``: the networks of CIFAR-100, their sizes and published accuracies."""
    accuracies = {}
    for role, place in (('teacher', 0), ('student', 1)):
        for pair, value in alone(root, role).items():
            # the networks of other sources are not ours
            if value.source == 'crd':
                accuracies[pair.split('_')[place]] = value.accuracy
    converter = runpy.run_path(str(root / 'tools' / 'model_converters' / 'repdistiller_to_mmpretrain.py'))
    published_names = {ours: name for name, ours in converter['ARCHITECTURES'].items()}
    rows = []
    for network in networks(root):
        if not (root / 'configs' / 'vanilla' / f'{network}_cifar100.py').is_file():
            continue
        cfg, parameters = vanilla(root, network, 'cifar100')
        link = os.path.relpath(root / 'configs' / 'vanilla' / f'{network}_cifar100.py', folder)
        numbers = [f'{parameters:,}', str(cfg.model.head.in_channels), str(cfg.optim_wrapper.optimizer.lr)]
        names = [f'[`{network}`]({link})', f'`{published_names.get(network, network)}`']
        rows.append([*names, *numbers, accuracies.get(network, '-')])
    header = ['network', 'published name', 'parameters', 'feature width', 'learning rate', 'published accuracy (%)']
    return table(header, rows, 4)


def with_tables(root: Path, file: Path) -> str:
    """Return a page with the tables between its comments made again."""
    makers = {
        'methods': lambda: method_table(root, file.parent),
        'needs': lambda: needs_table(root),
        'papers': lambda: paper_table(root, file.parent),
        'networks': lambda: network_table(root, file.parent),
        'published overview': lambda: overview(root),
        'published cifar100': lambda: sections(root, 'cifar100', file.parent),
        'published in1k': lambda: sections(root, 'in1k', file.parent),
        'published cifar10': lambda: sections(root, 'cifar10', file.parent),
        'other pairs': lambda: other_table(root, file.parent),
        'sources': lambda: source_table(root),
        'missing methods': lambda: missing_methods(root) + '\n',
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
