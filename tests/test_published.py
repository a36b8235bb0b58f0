"""Published accuracies and ours: the data are consistent, and the pages show all of them and nothing else."""

import csv
import json
import re
import statistics
from pathlib import Path

import generate
import published_tables
import published_values
import pytest
from helpers import CONFIGS, ROOT, TOOLS

from icd_mmrazor import recipes

METHODS = sorted(file.stem for file in (CONFIGS / '_base_' / 'methods').glob('*.py'))
# methods with published accuracies and a config, or one to come
NAMES = {
    *METHODS,
    'afd',
    'ctkd',
    'ctkd_ls',
    'dist',
    'dkd',
    'dkd_ls',
    'ickd',
    'itrd',
    'kd_ls',
    'kdsvd',
    'mlkd',
    'mlkd_ls',
}
NAMES |= {'nkd', 'ofd', 'reviewkd', 'rld', 'semckd', 'simkd', 'srd', 'srrl', 'ttm', 'vitkd', 'vkd', 'wsld', 'wttm'}
# methods of which no accuracy on such pairs was found
WITHOUT = {'abkd', 'ega', 'ofa', 'rsd'}
PAGE = ROOT / 'docs' / 'published.md'
WHICH = ROOT / 'docs' / 'howto' / 'which_method.md'
NUMBER = r'\d+\.\d+'
APART = 'Not comparable with these:'


def rows(name: str) -> list[dict[str, str]]:
    with (TOOLS / 'benchmarks' / name).open() as file:
        return list(csv.DictReader(file))


PUBLISHED, SOURCES = rows('published.csv'), {row['source']: row for row in rows('published_sources.csv')}
RUNS = [
    (study, run)
    for study, results in json.loads((ROOT / 'docs' / 'results.json').read_text()).items()
    for run in results['runs']
    if run['point'] == 'published'
]


@pytest.fixture(scope='module')
def page() -> str:
    """Return the page as it follows from the data."""
    return generate.with_tables(ROOT, PAGE)


def sections(page: str) -> dict[str, str]:
    """Return the sections of pairs by their names."""
    parts = re.split(r'^### (.+)$', page, flags=re.MULTILINE)[1:]
    return {pair: re.split(r'^## ', text, flags=re.MULTILINE)[0] for pair, text in zip(*[iter(parts)] * 2, strict=True)}


def table(text: str) -> list[list[str]]:
    """Return the rows of all tables of a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    return [
        [cell.strip() for cell in line.strip('|').split(' | ')] for line in lines if not line.startswith('| method |')
    ]


def plain(cell: str) -> str:
    """Return a cell without its links."""
    return re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', cell)


def test_rows_are_complete() -> None:
    for row in PUBLISHED:
        assert re.fullmatch(NUMBER, row['accuracy']), row
        assert 0 < float(row['accuracy']) < 100, row
        assert re.fullmatch(rf'({NUMBER})?', row['spread']), row
        assert row['pair'].count('_') == 2, row
        assert row['source'] in SOURCES, row
        assert ' + ' not in row['method'].partition(' ')[0], row
    cells = [(row['method'], row['pair'], row['source'], row['accuracy']) for row in PUBLISHED]
    assert len({*cells}) == len(cells)


def test_no_name_of_a_method_is_unknown() -> None:
    for row in PUBLISHED:
        if row['method'] not in ('teacher', 'student'):
            assert {*published_values.names_of(row['method'])} <= NAMES, row


def test_pairs_of_ours_are_named_as_their_configs() -> None:
    ours = {pair for pair in recipes.pair_names() if pair.endswith('_cifar100')}
    of_benchmark = {row['pair'] for row in PUBLISHED if row['source'] == 'crd'}
    assert of_benchmark == ours
    # another spelling of a network would be another pair
    networks = {network for pair in ours for network in pair.split('_')[:2]}
    for row in PUBLISHED:
        for network in row['pair'].split('_')[:2]:
            similar = network.replace('shufflev', 'shufflenetv').replace('mobilev', 'mobilenetv')
            assert similar == network or similar not in networks, row


def test_each_source_says_what_it_is() -> None:
    used = {row['source'] for row in PUBLISHED}
    assert used == SOURCES.keys()
    for key, source in SOURCES.items():
        assert source['where'], key
        assert source['epoch'] in ('best', 'last', ''), key
        assert not source['url'] or source['url'].startswith('https://'), key
    # the sources of quotes say so, and those of others quote nobody
    for row in PUBLISHED:
        if row['method'] not in ('teacher', 'student'):
            quoted = 'second hand' in row['apart']
            assert ('via-' in row['source']) <= bool(row['apart']), row
            assert not quoted or 'via-' in row['source'] or row['source'] in ('afd', 'rld-note', 'wsld-issue'), row


@pytest.mark.parametrize(
    ('method', 'word'),
    [('SimKD', 'other student'), ('MLKD', 'two views')],
)
def test_what_counts_other_things_is_apart(method: str, word: str) -> None:
    found = [row for row in PUBLISHED if row['method'].startswith(method)]
    assert found
    assert all(word in row['apart'] for row in found)


def test_best_and_last_epoch_of_the_logs() -> None:
    """As the page says: 55 logs, the best epoch is 0.31 above the last on average, at most 0.92."""
    best, last = (
        {(row['method'], row['pair']): float(row['accuracy']) for row in PUBLISHED if row['source'] == source}
        for source in (published_values.LOGS['best'], published_values.LOGS['last'])
    )
    assert best.keys() == last.keys()
    gaps = [best[cell] - last[cell] for cell in best]
    text = ' '.join(PAGE.read_text().split())
    found = re.search(
        r'In (\d+) published logs .* is ([\d.]+) points above the last one on average, and at most (\d+\.\d+)', text
    )
    assert found.groups() == (str(len(gaps)), f'{statistics.mean(gaps):.2f}', f'{max(gaps):.2f}')
    assert min(gaps) >= 0


def test_each_number_of_a_pair_is_published(page: str) -> None:
    """Both ways: what a section shows is in the data, and all of the data is shown."""
    for pair, text in sections(page).items():
        of_pair = [row for row in PUBLISHED if row['pair'] == pair]
        shown: set[tuple[str, str, str]] = set()
        for method, published, epoch, source, *_ in table(text):
            name = {'student alone': 'student'}.get(plain(method), plain(method))
            if published:
                accuracy = published.partition(' ')[0]
                keys = re.findall(r'`([\w-]+)`', source)
                shown |= {(name, accuracy, key) for key in keys}
                assert {SOURCES[keys[0]]['epoch'] or 'not said'} == {epoch.partition(';')[0]}
            for kind, accuracy in re.findall(rf'\b(best|last) ({NUMBER})', epoch):
                shown.add((name, accuracy, f'lskd-logs-{kind}'))
        for accuracy, key in re.findall(rf'({NUMBER}) \(`([\w-]+)`\)', text.partition('\n\n|')[0]):
            shown.add(('teacher', accuracy, key))
        assert shown == {(row['method'], row['accuracy'], row['source']) for row in of_pair}, pair


def test_nothing_is_lost(page: str) -> None:
    """The sums of the overview are the numbers of rows."""
    (overview,) = re.findall(r'^\| pair \| student alone .*\n((?:\|.*\n)+)', page, re.MULTILINE)
    counts = [[cell.strip() for cell in line.strip('|').split(' | ')][-2:] for line in overview.splitlines()[1:]]
    of_methods = [row for row in PUBLISHED if row['method'] not in ('teacher', 'student') and not row['apart']]
    assert sum(int(published) for published, _ in counts) == len(of_methods)
    ran = {(run['methods'], run['pair']) for _, run in RUNS if run['methods'] != 'student'}
    assert sum(int(count) for _, count in counts) == len(ran)
    others = re.search(r'<!-- zoo: other pairs -->(.*?)<!-- end -->', page, re.DOTALL)[1]
    shown = {plain(cell).strip('`') for cell in re.findall(r'^\| (`[^|]*`) \|', others, re.MULTILINE)}
    pairs = {row['pair'] for row in PUBLISHED}
    assert shown == pairs - {*sections(page)}
    assert {*sections(page)} == (pairs - shown) | {run['pair'] for _, run in RUNS}


def test_rankings_are_of_one_kind(page: str) -> None:
    """Sorted within a kind of epoch; what cannot be compared is in another table."""
    for pair, text in sections(page).items():
        compared, _, apart = text.partition(APART)
        reasons = {(row['method'], row['accuracy']): row['apart'] for row in reversed(PUBLISHED) if row['pair'] == pair}
        ranked = [cells for cells in table(compared) if cells[1] and plain(cells[0]) != 'student alone']
        for method, published, *_ in ranked:
            assert not reasons[plain(method), published.partition(' ')[0]], (pair, method)
        order = ['last', 'best', 'not said']
        places = [(order.index(cells[2].partition(';')[0]), -float(cells[1].partition(' ')[0])) for cells in ranked]
        assert places == sorted(places), pair
        assert all(cells[-1] for cells in table(apart)), pair


def test_our_cells(page: str) -> None:
    """Mean, deviation and seeds, computed once more; the command names a study that has the cell."""
    studies = published_values._studies(ROOT)
    texts = sections(page)
    seen = 0
    for pair, text in texts.items():
        for method, _, _, _, *cells in table(text):
            # one line for each study that has the cell
            for ours, seeds, command, log in zip(*(cell.split('<br>') for cell in cells[:4]), strict=True):
                assert bool(ours) == bool(seeds) == bool(command) == bool(log), (pair, method)
                if not ours:
                    continue
                words = command.strip('`').split()
                assert words[0] == 'run.py'
                study, methods = words[1], words[words.index('--methods') + 1]
                assert words[words.index('--pairs') + 1] == pair
                assert pair in studies[study].pairs
                assert methods in studies[study].points['published'].methods
                found = [run for name, run in RUNS if (name, run['methods'], run['pair']) == (study, methods, pair)]
                values = [run['accuracy'] for run in found]
                assert ours.startswith(f'{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}')
                assert seeds == ', '.join(str(run['seed']) for run in sorted(found, key=lambda run: run['seed']))
                seen += len(found)
    assert seen == len(RUNS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Copy the data to a folder without configs."""
    for folder in ('docs', 'tools/benchmarks', 'configs/_base_/methods', 'configs/_base_/pairs'):
        (tmp_path / folder).mkdir(parents=True)
    for name in ('published.csv', 'published_sources.csv', 'studies.py'):
        (tmp_path / 'tools' / 'benchmarks' / name).write_text((TOOLS / 'benchmarks' / name).read_text())
    return tmp_path


def test_quotes_that_agree_are_one_row(data: Path) -> None:
    """A number that somebody else got is not."""
    apart = {'crd': '', 'torchdistill': 'run in torchdistill', 'via-ttm': 'second hand'}
    lines = [f'KD,a_b_cifar100,73.33,,{source},{reason},' for source, reason in apart.items()]
    file = data / 'tools' / 'benchmarks' / 'published.csv'
    file.write_text('\n'.join([file.read_text().splitlines()[0], *lines]))
    rows = published_tables.rows_of(data, 'a_b_cifar100')
    assert [[value.source for value in row.published] for row in rows] == [['crd', 'via-ttm'], ['torchdistill']]
    assert [row.apart for row in rows] == ['', 'run in torchdistill']


def test_results_without_a_study_are_shown(data: Path) -> None:
    """A study of one's own: its command has the seeds and the settings; a published accuracy is beside it."""
    pair = 'res32x4_res8x4_cifar100'
    run = dict(point='published', methods='kd', pair=pair, options=['a.b=1'], session='t', epochs=240)
    runs = [{**run, 'seed': seed, 'accuracy': accuracy} for seed, accuracy in ((4, 73.5), (1, 73.1))]
    results = dict(own=dict(sessions=[dict(started='t', commit='abc')], teachers=[], runs=runs))
    (data / 'docs' / 'results.json').write_text(json.dumps(results))
    text = published_tables.section(data, pair, data / 'docs')
    (line,) = (line for line in text.splitlines() if line.startswith('| KD | 73.33'))
    command = f'`run.py --methods kd --pairs {pair} --seeds 1 4 --cfg-options a.b=1`'
    ours = f'73.30 ± 0.28 (other settings) | 1, 4 | {command} | not kept'
    assert line == f'| KD | 73.33 | last | `crd` | {ours} |'
    assert '1 method run by us' in text
    assert '<details>' not in text


@pytest.mark.parametrize(('method', 'why'), [('simkd', 'other student'), ('mlkd', 'two views'), ('dkd', None)])
def test_our_own_runs_of_other_things_are_apart(method: str, why: str | None, data: Path) -> None:
    run = dict(point='published', methods=method, pair='a_b_cifar10', options=[], session='t', seed=0, accuracy=50.0)
    results = dict(own=dict(sessions=[dict(started='t', commit='abc')], teachers=[], runs=[run]))
    (data / 'docs' / 'results.json').write_text(json.dumps(results))
    compared, _, apart = published_tables.section(data, 'a_b_cifar10', data / 'docs').partition(APART)
    (cells,) = table(apart if why else compared)
    assert cells[4] == '50.00'
    assert (cells[-1] if why else None) == why


def test_methods_are_linked_if_they_have_a_config(page: str) -> None:
    missing = re.search(r'Without a config here: (.*)\.$', page, re.MULTILINE)
    labels = missing[1].split(', ') if missing else []
    names = {name for row in PUBLISHED for name in published_values.names_of(row['method'])} - {'teacher', 'student'}
    assert sorted(name for label in labels for name in published_values.names_of(label)) == sorted(names - {*METHODS})
    for name in METHODS:
        if any(name in published_values.names_of(row['method']) for row in PUBLISHED):
            assert f'](../configs/{name}/README.md)' in page


def test_numbers_of_which_method_have_a_source() -> None:
    """Each is published, or in a table of ours; a rounded one ends a range of published ones."""
    known = {row['accuracy'] for row in PUBLISHED}
    for page in ('results.md', 'howto/unlabeled_images.md'):
        known |= {*re.findall(rf'\b{NUMBER}\b', (ROOT / 'docs' / page).read_text())}
    ranges = {'71.3', '72.2'}
    assert {*re.findall(r'\b\d\d\.\d+\b', WHICH.read_text())} - ranges <= known
    since_2021 = [
        float(row['accuracy'])
        for row in PUBLISHED
        if row['pair'] == 'resnet34_resnet18_in1k' and not row['apart'] and row['method'] not in ('teacher', 'student')
    ]
    assert {f'{min(since_2021):.1f}', f'{max(since_2021):.1f}'} == ranges


def test_which_method_gives_each_method_its_own_number() -> None:
    published = {
        (row['method'].lower().replace('+ls', '_ls'), row['accuracy'])
        for row in PUBLISHED
        if row['pair'] == 'res32x4_res8x4_cifar100'
    }
    (sentence,) = re.findall(r'On res32x4 → res8x4 .*?77\.01 for `\w+`', WHICH.read_text())
    found = re.findall(rf'({NUMBER}) for `(\w+)`', sentence)
    assert len(found) == 5
    assert {(name, number) for number, name in found} <= published


def test_which_method_names_methods() -> None:
    words = {*re.findall(r'`([a-z_+]+)`', WHICH.read_text())}
    assert len(words) > 30
    assert {name for word in words for name in word.split('+')} <= NAMES | WITHOUT


def test_which_method_is_short() -> None:
    assert len(WHICH.read_text().splitlines()) <= 70
