"""The model zoo: pages, metafiles and example configs agree with the published table and the benchmark.

What is tested here is generated from the configs in a copy, so a new method needs nothing but its config and its loss;
``make lint`` checks that the files in the repository are the generated ones.
"""

import csv
import functools
import json
import re
import shutil
from pathlib import Path

import generate
import pytest
from helpers import CONFIGS, DATA, ROOT, TOOLS
from method_facts import methods
from mmengine.config import Config
from mmengine.config.utils import _get_cfg_metainfo
from mmengine.fileio import load
from mmengine.hub import get_config
from mmrazor.registry import MODELS
from published_values import names_of

from icd_mmrazor import recipes
from icd_mmrazor.configuration.image_size import tell_distillers
from icd_mmrazor.models.networks.changed_student import record_changed_student
from icd_mmrazor.models.networks.resolve import name_networks_in_full, network_config

METHODS = sorted(file.stem for file in (CONFIGS / '_base_' / 'methods').glob('*.py'))
FOLDERS = sorted({*METHODS, 'vanilla'})
PAGES = ['docs/model_zoo.md', 'configs/vanilla/README.md', *(f'configs/{method}/README.md' for method in METHODS)]
NOT_RUN = 'We have not run any of these cells'
NOT_PUBLISHED = '-'
ARCHITECTURES = json.loads((DATA / 'repdistiller_architectures.json').read_text())
# networks of experiments on CIFAR-10 alone, and their published sizes
OTHERS = {'cnn1': 15_050, 'cnn1-a': 57_994, 'preact18': 11_171_274}
# what the names of configs say after the network: the data, and how many classes fewer than 100 they have
CIFAR = {'cifar100': ('CIFAR-100', 0), 'cifar10': ('CIFAR-10', 90)}

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


def published(method: str, source: str = 'crd') -> dict[str, str]:
    """Return the published accuracies of a method by pair, as a source has them."""
    with (TOOLS / 'benchmarks' / 'published.csv').open() as file:
        return {
            row['pair']: row['accuracy']
            for row in csv.DictReader(file)
            if (row['method'], row['source']) == (method, source)
        }


def tables(page: Path) -> list[Table]:
    """Return the tables of a Markdown page, each as its rows without the line below the header."""
    blocks = re.findall(r'(?:^\|.*\|\n)+', page.read_text(), re.MULTILINE)
    rows_of = [[row for row in block.splitlines() if not row.startswith('|--')] for block in blocks]
    return [[[cell.strip() for cell in row.strip('|').split('|')] for row in rows] for rows in rows_of]


# to read it takes half a second
_loaded = functools.cache(load)


def metafile(root: Path, folder: str) -> dict:
    """Return what the metafile says of a folder of configs."""
    content = _loaded(root / 'configs' / 'metafile.yml')
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
        training_data, fewer_classes = CIFAR[data.partition('-')[0]]
        assert model['Metadata']['Training Data'] == training_data
        if student in OTHERS:
            parameters = OTHERS[student]
        else:
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
    for place, role in enumerate(('teacher', 'student')):
        for pair, accuracy in published(role).items():
            network = pair.split('_')[place]
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
        'vgg13_mobilenetv2_cifar100': '69.77',
        'res50_mobilenetv2_cifar100': '70.03',
        'res32x4_shufflenetv1_cifar100': '76.01',
        'res32x4_shufflenetv2_cifar100': '76.95',
    }
    assert {pair: published('ICD+KD', 'icd')[pair] for pair in last} == last
    for page in ('docs/published.md', 'configs/icd/README.md'):
        assert '14 November 2024' in (root / page).read_text()


def test_zoo_names_every_method(root: Path) -> None:
    (table,) = [table for table in tables(root / 'docs' / 'model_zoo.md') if table[0][0] == 'name']
    assert sorted(link_text(row[0]) for row in table[1:]) == METHODS
    for row in table[1:]:
        (collection,) = metafile(root, link_text(row[0]))['Collections']
        assert row[1].startswith(collection.get('Paper', {}).get('Title', ''))


@pytest.mark.parametrize('method', METHODS)
def test_published_values_of_a_method(root: Path, method: str) -> None:
    """The table has all of the data, and nothing else; its sources are explained below it."""
    with (TOOLS / 'benchmarks' / 'published.csv').open() as file:
        rows = [row for row in csv.DictReader(file) if names_of(row['method'])[0] == method]
    page = root / 'configs' / method / 'README.md'
    found = [table for table in tables(page) if table[0][:3] == ['pair', 'teacher', 'student alone']]
    assert len(found) == bool(rows)
    shown = set()
    for header, *lines in found:
        for pair, _, _, *values in lines:
            for column, value in zip(header[3:], values, strict=True):
                name, source, *apart = column.split('<br>')
                if value:
                    shown.add((name, pair.strip('`'), value, source.strip('`'), *(apart or [''])))
                assert re.search(rf'^- {source}: .*(last epoch|best epoch|not said)', page.read_text(), re.MULTILINE)
    keys = ('method', 'pair', 'accuracy', 'source', 'apart')
    assert shown == {tuple(row[key] for key in keys) for row in rows}


@pytest.mark.parametrize('method', METHODS)
def test_what_we_ran_of_a_method(root: Path, method: str) -> None:
    results = json.loads((ROOT / 'docs' / 'results.json').read_text())
    labels = {each.name: each.label for each in methods(root)}
    ran = {
        (run['pair'], '+'.join(labels[name] for name in run['methods'].split('+')))
        for study in results.values()
        for run in study['runs']
        if run['point'] == 'published' and run['methods'].split('+')[0] == method
    }
    found = [table for table in tables(root / 'configs' / method / 'README.md') if 'top-1 (%)' in table[0]]
    assert len(found) == bool(ran)
    shown = {
        (row[0].strip('`'), re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', row[1])) for table in found for row in table[1:]
    }
    assert shown == ran


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
    facts = generate.Method(root / 'configs' / '_base_' / 'methods' / f'{method}.py')
    others = {'vitkd': 'deit3-small_deit-tiny_in1k', 'ceskd': 'res56_res20_cifar100'}
    assert facts.pair == others.get(method, 'res32x4_res8x4_cifar100')
    example = Config.fromfile(root / 'configs' / method / f'{method}_{facts.pair}.py')
    # as the tools do
    name_networks_in_full(example.model)
    tell_distillers(example)
    record_changed_student(example.model)
    composed = recipes.compose(facts.pair, [method])
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
