"""The model zoo: pages, metafiles and example configs agree with the published table and the benchmark.

What is tested here is generated from the configs in a copy, so a new method needs nothing but its config and its loss;
``make lint`` checks that the files in the repository are the generated ones.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import generate
import pytest
from helpers import CONFIGS, DATA, ROOT, TOOLS
from mmengine.config import Config
from mmengine.config.utils import _get_cfg_metainfo
from mmengine.fileio import load
from mmengine.hub import get_config
from mmrazor.registry import MODELS

from icd_mmrazor import recipes
from icd_mmrazor.configuration.image_size import tell_distillers
from icd_mmrazor.models.networks.changed_student import record_changed_student
from icd_mmrazor.models.networks.resolve import network_config

METHODS = sorted(file.stem for file in (CONFIGS / '_base_' / 'methods').glob('*.py'))
FOLDERS = sorted({*METHODS, 'vanilla'})
PAGES = ['docs/model_zoo.md', 'configs/vanilla/README.md', *(f'configs/{method}/README.md' for method in METHODS)]
NOT_RUN = 'We have not run any of these cells'
NOT_PUBLISHED = '-'
ARCHITECTURES = json.loads((DATA / 'repdistiller_architectures.json').read_text())
# what the names of configs say after the network: the data, and how many classes fewer than 100 they have
CIFAR = {'cifar100': ('CIFAR-100', 0), 'cifar10': ('CIFAR-10', 90), 'cifar10-16k': ('CIFAR-10', 90)}

Table = list[list[str]]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository's pages and configs in which everything is generated."""
    copy = tmp_path_factory.mktemp('repository')
    for folder in ('configs', 'docs', 'tools', 'requirements'):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns('_build', '__pycache__'))
    for file in ROOT.glob('*.md'):
        shutil.copy(file, copy)
    for file, text in generate.generate(copy).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return copy


def published() -> dict[str, dict[str, str]]:
    """Return the published accuracies by method and pair."""
    lines = (TOOLS / 'benchmarks' / 'published_cifar100.csv').read_text().splitlines()
    rows = list(csv.reader(line for line in lines if not line.startswith('#')))
    pairs = rows[0][1:]
    return {
        method: {pair: value or NOT_PUBLISHED for pair, value in zip(pairs, values, strict=True)}
        for method, *values in rows[1:]
    }


def tables(page: Path) -> list[Table]:
    """Return the tables of a Markdown page, each as its rows without the line below the header."""
    blocks = re.findall(r'(?:^\|.*\|\n)+', page.read_text(), re.MULTILINE)
    rows_of = [[row for row in block.splitlines() if not row.startswith('|--')] for block in blocks]
    return [[[cell.strip() for cell in row.strip('|').split('|')] for row in rows] for rows in rows_of]


def metafile(root: Path, folder: str) -> dict:
    """Return what the metafile says of a folder of configs."""
    content = load(root / 'configs' / 'metafile.yml')
    collections = [about for about in content['Collections'] if about['README'] == f'configs/{folder}/README.md']
    models = [model for model in content['Models'] if Path(model['Config']).parent == Path('configs', folder)]
    return dict(Collections=collections, Models=models)


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile(root: Path, folder: str) -> None:
    content = metafile(root, folder)
    page = f'configs/{folder}/README.md'
    collections = {collection['Name'] for collection in content['Collections']}
    assert collections
    for collection in content['Collections']:
        if 'Paper' in collection:
            assert collection['Paper']['Title']
            assert collection['Paper']['URL'] in (root / page).read_text()
    configs = sorted(f'configs/{folder}/{file.name}' for file in (root / 'configs' / folder).glob('*.py'))
    assert sorted(model['Config'] for model in content['Models']) == configs
    for model in content['Models']:
        assert model['In Collection'] in collections
        assert model['Name'] == Path(model['Config']).stem
        # none of them was trained by us
        assert not {'Results', 'Weights'} & model.keys()


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile_names_the_networks(root: Path, folder: str) -> None:
    rows = network_table(root / 'docs' / 'model_zoo.md')
    published_names = {link_text(row[0]): row[1].strip('`') for row in rows}
    for model in metafile(root, folder)['Models']:
        *networks, data = model['Name'].split('_')
        if data == 'in1k':
            continue
        student = networks[-1]
        training_data, fewer_classes = CIFAR[data]
        assert model['Metadata']['Training Data'] == training_data
        network = ARCHITECTURES[published_names[student]]
        parameters = network['params'] - fewer_classes * (network['feature_dim'] + 1)
        if 'Remark' in model['Metadata'].get('Student', {}):  # a method changes the student
            architecture = recipes.compose('_'.join([*networks[-2:], data]), networks[0].split('-')).model.architecture
            parameters = sum(parameter.numel() for parameter in MODELS.build(architecture).parameters())
        assert model['Metadata']['Parameters'] == parameters
        if folder == 'vanilla':
            continue
        for role, name in (('Teacher', networks[-2]), ('Student', student)):
            config = model['Metadata'][role]['Config']
            assert config == f'icd_mmrazor::vanilla/{name}_{data}.py'
            assert (CONFIGS / config.removeprefix('icd_mmrazor::')).is_file()


@pytest.mark.slow
def test_metafile_names_the_networks_on_imagenet(root: Path) -> None:
    models = [model for model in metafile(root, 'icd')['Models'] if model['Name'].endswith('_in1k')]
    assert len(models) == 4
    for model in models:
        cfg = Config.fromfile(ROOT / model['Config']).model
        assert model['Metadata']['Training Data'] == 'ImageNet-1k'
        for role, network in (('Teacher', cfg.teacher), ('Student', cfg.architecture)):
            assert model['Metadata'][role]['Config'] == network.cfg_path
        student = MODELS.build(network_config(cfg.architecture, 'model.architecture'))
        assert model['Metadata']['Parameters'] == sum(parameter.numel() for parameter in student.parameters())


def test_index_names_the_metafile(root: Path) -> None:
    index = load(ROOT / 'icd_mmrazor' / '.mim' / 'model-index.yml')
    assert index == {'Import': ['configs/metafile.yml']}
    assert (ROOT / 'model-index.yml').samefile(ROOT / 'icd_mmrazor' / '.mim' / 'model-index.yml')
    content = load(root / 'configs' / 'metafile.yml')
    folders = {Path(model['Config']).parent.name for model in content['Models']}
    assert folders == {Path(about['README']).parent.name for about in content['Collections']} == {*FOLDERS}


def link_text(cell: str) -> str:
    return re.fullmatch(r'\[`(.+)`\]\(.+\)', cell).group(1)


def network_table(page: Path) -> Table:
    (table,) = [table for table in tables(page) if table[0][0] == 'network']
    return table[1:]


@pytest.mark.slow
@pytest.mark.parametrize('page', ['docs/model_zoo.md', 'configs/vanilla/README.md'])
def test_networks(root: Path, page: str) -> None:
    accuracies = {}
    for pair in published()['teacher']:
        for network, role in zip(pair.split('_'), ('teacher', 'student'), strict=True):
            accuracy = published()[role][pair]
            assert accuracies.setdefault(network, accuracy) == accuracy
    rows = network_table(root / page)
    assert {row[1].strip('`') for row in rows} == set(ARCHITECTURES)
    for link, published_name, parameters, width, lr, accuracy in rows:
        network, architecture = link_text(link), ARCHITECTURES[published_name.strip('`')]
        assert int(parameters.replace(',', '')) == architecture['params']
        assert int(width) == architecture['feature_dim']
        assert accuracy == accuracies.get(network, NOT_PUBLISHED)
        cfg = Config.fromfile(CONFIGS / 'vanilla' / f'{network}_cifar100.py')
        assert float(lr) == cfg.optim_wrapper.optimizer.lr
        assert cfg.model.head.in_channels == architecture['feature_dim']


def test_the_last_published_table_counts(root: Path) -> None:
    """Four cells of the table of November 2024 differ from that of September."""
    last = {
        'vgg13_mobilenetv2': '69.77',
        'res50_mobilenetv2': '70.03',
        'res32x4_shufflenetv1': '76.01',
        'res32x4_shufflenetv2': '76.95',
    }
    assert {pair: published()['ICD+KD'][pair] for pair in last} == last
    for page in ('docs/model_zoo.md', 'configs/icd/README.md'):
        assert '14 November 2024' in (root / page).read_text()


def test_zoo_has_the_whole_published_table(root: Path) -> None:
    shown: dict[str, dict[str, str]] = {}
    for header, *rows in tables(root / 'docs' / 'model_zoo.md'):
        pairs = [cell.replace('<br>', '_') for cell in header[1:]]
        if not set(pairs) <= set(published()['teacher']):
            continue
        for method, *values in rows:
            shown.setdefault(method, {}).update(zip(pairs, values, strict=True))
    assert shown == published()


def test_zoo_names_every_method(root: Path) -> None:
    (table,) = [table for table in tables(root / 'docs' / 'model_zoo.md') if table[0][0] == 'name']
    assert sorted(link_text(row[0]) for row in table[1:]) == METHODS
    for row in table[1:]:
        (collection,) = metafile(root, link_text(row[0]))['Collections']
        assert row[1].startswith(collection.get('Paper', {}).get('Title', ''))


@pytest.mark.parametrize('method', METHODS)
def test_published_values_of_a_method(root: Path, method: str) -> None:
    (collection,) = metafile(root, method)['Collections']
    of_method = {name for name in published() if re.split(r'\+|_', name)[0] == collection['Name']}
    found = [table for table in tables(root / 'configs' / method / 'README.md') if table[0][0] == 'pair']
    assert len(found) == bool(of_method)
    for table in found:
        columns = [{'student alone': 'student'}.get(cell, cell) for cell in table[0][1:]]
        assert set(columns) == {'teacher', 'student', *of_method}
        shown = {row[0].strip('`'): dict(zip(columns, row[1:], strict=True)) for row in table[1:]}
        assert shown == {pair: {name: published()[name][pair] for name in columns} for pair in published()['teacher']}


def test_every_published_method_is_here(root: Path) -> None:
    names = {re.split(r'\+|_', name)[0] for name in published()} - {'teacher', 'student'}
    assert names <= {metafile(root, method)['Collections'][0]['Name'] for method in METHODS}


def test_published_pairs_are_those_of_the_benchmark() -> None:
    assert {f'{pair}_cifar100' for pair in published()['teacher']} == {
        pair for pair in recipes.pair_names() if pair.endswith('_cifar100')
    }


@pytest.mark.parametrize('page', PAGES)
def test_page(root: Path, page: str) -> None:
    text = (root / page).read_text()
    assert NOT_RUN in text or 'Published results' not in text
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        path, _, heading = target.partition('#')
        if path.startswith('https://'):
            continue
        linked = (root / page).parent / path
        assert linked.is_file(), target
        if heading:
            headings = re.findall(r'^#+ (.+)$', linked.read_text(), re.MULTILINE)
            assert heading in [re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in headings], target
    for file in re.findall(r'(?:tools|configs)/[\w./-]+\.(?:py|sh)', text):
        assert (root / file).is_file(), file
    for names in re.findall(r'tools/benchmarks/train\.py (?!-)(\S+)', text):
        assert set(names.split('+')) <= set(recipes.method_names()), names


@pytest.mark.parametrize('method', METHODS)
def test_example_is_what_the_benchmark_composes(root: Path, method: str) -> None:
    example = Config.fromfile(root / 'configs' / method / f'{method}_res32x4_res8x4_cifar100.py')
    # as the tools do
    tell_distillers(example)
    record_changed_student(example.model)
    composed = recipes.compose('res32x4_res8x4_cifar100', [method])
    assert example.to_dict() == composed.to_dict()


def test_hub_finds_configs_by_the_index() -> None:
    name = 'kd/kd_res32x4_res8x4_cifar100.py'
    assert _get_cfg_metainfo(ROOT / 'icd_mmrazor', name)['Name'] == Path(name).stem
    assert get_config(f'icd_mmrazor::{name}').to_dict() == Config.fromfile(CONFIGS / name).to_dict()
    # what the index does not name is found all the same
    assert 'res20' in get_config('icd_mmrazor::_base_/models/res20.py')
    with pytest.raises(AssertionError, match='Weights'):
        get_config(f'icd_mmrazor::{name}', pretrained=True)


def test_a_users_file_inherits_an_example(tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text("_base_ = ['icd_mmrazor::ab/ab_res32x4_res8x4_cifar100.py']\n")
    inherited = Config.fromfile(tmp_path / 'mine.py')
    example = Config.fromfile(CONFIGS / 'ab' / 'ab_res32x4_res8x4_cifar100.py')
    assert inherited.train_cfg == example.train_cfg
    assert inherited.model.distiller.keys() - {'_scope_'} == example.model.distiller.keys() - {'_scope_'}
