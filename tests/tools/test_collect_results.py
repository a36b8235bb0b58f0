"""The table of the benchmark's runs: statistics, published values, and what it says of folders that are not sound."""

import csv
import json
import runpy
import statistics
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers import TOOLS

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.trial_results import method_key, pair_key, read_published

PAIR, OTHER = 'res32x4_res8x4_cifar100', 'vgg13_mobilenetv2_cifar100'


@pytest.fixture(scope='module')
def tool() -> dict:
    return runpy.run_path(str(TOOLS / 'analysis' / 'collect_results.py'))


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Write what a training leaves; return its first log."""

    def write(
        method: str,
        pair: str,
        seed: int,
        accuracies: Sequence[float],
        epochs: int = 240,
        root: str = 'runs',
        model: str = '',
    ) -> Path:
        logs = tmp_path / root / method / pair / f'seed_{seed}' / '20260101_000000' / 'vis_data'
        logs.mkdir(parents=True)
        config = (
            f'model = dict({model})\n'
            f'train_cfg = dict(by_epoch=True, max_epochs={epochs}, val_interval=1)\nrandomness = dict(seed={seed})\n'
        )
        (logs / 'config.py').write_text(config)
        lines = []
        for step, accuracy in enumerate(accuracies, start=epochs - len(accuracies) + 1):
            lines += [{'loss': 1.0, 'epoch': step, 'step': 2 * step}, {'accuracy/top1': accuracy, 'step': step}]
        log = logs / 'scalars.json'
        log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
        return log

    return write


@pytest.fixture
def collect(tool: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[str, list[dict]]]:
    """Run the tool on folders; return what it prints and the lines of the CSV."""

    def run(*more: object, root: str = 'runs') -> tuple[str, list[dict]]:
        file = tmp_path / 'out' / 'table.csv'
        tool['main']([*(str(tmp_path / name) for name in root.split()), '--csv', str(file), '--force', *map(str, more)])
        with file.open(newline='') as lines:
            return capsys.readouterr().out, list(csv.DictReader(lines))

    return run


def test_mean_deviation_and_published_values(write_run: Callable, collect: Callable, tmp_path: Path) -> None:
    finals = {('icd', PAIR): [74.0, 74.5, 74.75], ('icd', OTHER): [67.0, 67.1, 67.6], ('kd+icd', PAIR): [75.0] * 3}
    for (method, pair), accuracies in finals.items():
        for seed, accuracy in enumerate(accuracies):
            # the last epoch counts and not the best one
            write_run(method, pair, seed, [99.0, accuracy])
    table = tmp_path / 'out' / 'table.md'
    printed, rows = collect('--markdown', table)
    assert table.read_text() == printed
    lines = printed.splitlines()
    assert [text.strip() for text in lines[0].split('|')] == ['', '', PAIR, OTHER, '']
    assert [text.strip() for text in lines[2].split('|')] == [
        '', 'icd', '74.42 ± 0.38 (n=3) [74.23, +0.19]', '67.23 ± 0.32 (n=3) [68.35, -1.12]', '',
    ]  # fmt: skip
    assert [text.strip() for text in lines[3].split('|')] == [
        '', 'kd+icd', '75.00 ± 0.00 (n=3) [75.09, -0.09]', 'missing [69.77]', '',
    ]  # fmt: skip
    assert f'- kd+icd on {OTHER}: seed 0, 1, 2: missing' in printed
    for row in rows:
        accuracies = finals.get((row['method'], row['pair']))
        if accuracies is None:
            assert (row['seeds'], row['mean'], row['notes']) == ('0', '', 'seed 0, 1, 2: missing')
            continue
        assert (row['seeds'], row['epochs'], row['notes']) == ('3', '240', '')
        assert float(row['mean']) == pytest.approx(statistics.mean(accuracies), abs=1e-4)
        assert float(row['std']) == pytest.approx(statistics.stdev(accuracies), abs=1e-4)
        assert float(row['difference']) == pytest.approx(float(row['mean']) - float(row['published']), abs=1.1e-4)


def test_tables_that_exist_are_kept(tool: dict, write_run: Callable, tmp_path: Path) -> None:
    write_run('icd', PAIR, 0, [74.0])
    file = tmp_path / 'table'
    file.write_text('mine')
    for option in ('--csv', '--markdown'):
        with pytest.raises(SettingError, match=f'{option} {file} exists.*--force'):
            tool['main']([str(tmp_path / 'runs'), option, str(file)])
        with pytest.raises(SettingError, match=f'{option} {tmp_path} is a folder'):
            tool['main']([str(tmp_path / 'runs'), option, str(tmp_path), '--force'])
    assert file.read_text() == 'mine'


def test_every_pair_and_method_is_found_in_the_published_table(tool: dict) -> None:
    published = read_published(TOOLS / 'benchmarks' / 'published_cifar100.csv')
    pairs = [pair for pair in recipes.pair_names() if pair.endswith('_cifar100')]
    assert {pair_key(pair) for pair in pairs} == {pair for _, pair in published}
    methods = [*recipes.method_names(), 'icd+kd', 'KD+CRD', 'rrd+kd']
    assert {method for method in methods if (method_key(method), 'vgg13_mobilev2') not in published} == {'fsp'}
    assert published['fsp', 'res56_res20'] == 69.95
    # the same networks on other images are in no published table
    assert pair_key('res56_res20_cifar10') == 'res56_res20_cifar10'


def test_one_seed_has_no_deviation(write_run: Callable, collect: Callable) -> None:
    write_run('icd', 'res20_res8_digits', 3, [88.0], epochs=4)
    printed, (row,) = collect()
    assert '| icd | 88.00 (n=1)       |' in printed
    assert (row['std'], row['published'], row['notes']) == ('', '', '')


def break_log(log: Path, how: str) -> None:
    text, last = log.read_text(), log.parents[2] / '20260102_000000' / 'vis_data'
    if how == 'cut off':
        log.write_text(text[:-8])
    elif how == 'garbage':
        log.write_bytes(b'\x00\xff garbage\n' * 3)
    elif how == 'empty':
        log.write_text('')
    elif how == 'nan':
        log.write_text(text.replace('70.0', 'NaN'))
    elif how == 'no log':
        log.unlink()
    elif how == 'nothing':
        log.unlink()
        (log.parent / 'config.py').unlink()
    elif how == 'no config':
        (log.parent / 'config.py').unlink()
    elif how == 'other seed':
        config = log.parent / 'config.py'
        config.write_text(config.read_text().replace('seed=1', 'seed=0'))
    elif how == 'too many epochs':
        log.write_text(text + json.dumps({'accuracy/top1': 71.0, 'step': 241}) + '\n')
    elif how == 'begun anew':
        last.mkdir(parents=True)
        (last / 'scalars.json').write_text(json.dumps({'accuracy/top1': 5.0, 'step': 1}) + '\n')


@pytest.mark.parametrize(
    ('how', 'said'),
    [
        ('cut off', 'broken, epoch 239/240 (20260101_000000/vis_data/scalars.json: 1 of 4 lines unreadable'),
        ('garbage', 'broken, epoch 0/240 (20260101_000000/vis_data/scalars.json: 3 of 3 lines unreadable'),
        ('empty', 'broken, epoch 0/240 (20260101_000000/vis_data/scalars.json is empty)'),
        ('nan', 'broken, epoch 239/240 (20260101_000000/vis_data/scalars.json: 1 of 4 lines unreadable'),
        ('no log', 'epoch 0/240'),
        ('nothing', 'not begun'),
        ('no config', 'broken (no config that says train_cfg.max_epochs)'),
        ('other seed', 'broken (its config says randomness.seed=0)'),
        ('too many epochs', 'broken (epoch 241 in the log, 240 epochs in the config)'),
        ('begun anew', 'epoch 1/240'),
    ],
)
def test_what_is_not_sound_is_named_and_not_averaged(
    how: str, said: str, write_run: Callable, collect: Callable
) -> None:
    for seed, accuracy in enumerate((74.0, 70.0, 75.0)):
        log = write_run('icd', PAIR, seed, [10.0, accuracy])
        if seed == 1:
            break_log(log, how)
    printed, (row,) = collect()
    assert '| icd | 74.50 ± 0.71 (n=2) † [74.23, +0.27] |' in printed
    assert f'- icd on {PAIR}: seed 1: {said}' in printed
    assert (row['seeds'], row['notes'].startswith(f'seed 1: {said}')) == ('2', True)


def test_a_half_finished_cell_says_how_far_it_is(write_run: Callable, collect: Callable) -> None:
    log = write_run('icd', PAIR, 0, [74.0])
    log.write_text(json.dumps({'accuracy/top1': 40.0, 'step': 37}) + '\n')
    assert '| icd | epoch 37/240 [74.23]    |' in collect()[0]


def test_a_scar_before_the_last_epoch_is_told(write_run: Callable, collect: Callable) -> None:
    """A run that was killed while it wrote a line, and resumed, counts; the reader is told."""
    log = write_run('icd', PAIR, 0, [50.0, 51.0])
    log.write_text(log.read_text()[:-5])
    resumed = log.parents[2] / '20260102_000000' / 'vis_data'
    resumed.mkdir(parents=True)
    (resumed / 'scalars.json').write_text(json.dumps({'accuracy/top1': 74.0, 'step': 240}) + '\n')
    printed, (row,) = collect()
    assert '74.00 (n=1) †' in printed
    assert 'epoch 240 counts' in row['notes']


def test_unlike_runs_are_not_averaged(write_run: Callable, collect: Callable) -> None:
    write_run('icd', PAIR, 0, [74.0])
    write_run('icd', PAIR, 1, [30.0], epochs=2)
    write_run('kd', PAIR, 0, [30.0], epochs=2)
    printed, (icd, kd) = collect()
    assert icd['mean'] == ''
    assert '30.00 % after 2 epochs; other seeds have other epochs' in icd['notes']
    # nor are two epochs passed off as the protocol
    assert kd['mean'] == '30.0'
    assert 'trained for 2 epochs, the published value is of 240' in kd['notes']
    assert 'not comparable' in printed


def test_an_initial_stage_is_beside_the_published_epochs(write_run: Callable, collect: Callable) -> None:
    staged = 'distiller=dict(\n        distillers=dict(\n            kd=dict(type="KD"), x=dict(initial_epochs=30)))'
    for method, epochs, model in (
        ('ab', 270, staged), ('ft', 240, staged), ('fitnet', 270, ''), ('at', 300, ''), ('kd', 240, ''),
    ):  # fmt: skip
        write_run(method, PAIR, 0, [70.0], epochs=epochs, model=model)
    _, rows = collect()
    assert {row['method']: row['notes'] for row in rows} == {
        'ab': '',
        'kd': '',
        'ft': 'trained for 240 epochs, 30 of them before the main stage, the published value is of 240 + 30',
        'fitnet': 'trained for 270 epochs, the published value is of 240',
        'at': 'trained for 300 epochs, the published value is of 240',
    }
    assert {row['method']: row['epochs'] for row in rows}['ab'] == '270'


def test_what_is_not_the_published_cell_is_told(write_run: Callable, collect: Callable) -> None:
    write_run('icd', PAIR, 0, [74.0], model='distiller=dict(),\n    random_teacher=True')
    write_run('icd', OTHER, 0, [67.0], model='random_teacher=False')
    for seed in range(3):
        record = write_run('kd', PAIR, seed, [73.0]).parents[2] / 'trial.json'
        record.write_text(json.dumps({'cfg_options': ['a.b=2', 'c=[1, "x y"]'][: 2 * (seed < 2)], 'model': {'b': []}}))
    record = write_run('kd', OTHER, 0, [67.0]).parents[2] / 'trial.json'
    record.write_text('{"model": {}}')
    printed, rows = collect()
    assert '| icd | 74.00 (n=1) † [74.23, -0.23]        | 67.00 (n=1) † [68.35, -1.35] |' in printed
    assert {(row['method'], row['pair']): row['notes'] for row in rows} == {
        ('icd', PAIR): 'seed 0: finished (the teacher is random); seed 1, 2: missing',
        ('icd', OTHER): 'seed 1, 2: missing',
        ('kd', PAIR): """seed 0, 1: finished (with --cfg-options a.b=2 'c=[1, "x y"]')""",
        ('kd', OTHER): 'seed 0: finished (trial.json does not say with which --cfg-options); seed 1, 2: missing',
    }


def test_several_folders_are_one_table(write_run: Callable, collect: Callable) -> None:
    write_run('icd', PAIR, 0, [74.0])
    write_run('icd', PAIR, 1, [75.0], root='more')
    assert '74.50 ± 0.71 (n=2) [' in collect(root='runs more')[0]
    write_run('icd', PAIR, 0, [74.0], root='more')
    with pytest.raises(SettingError, match='hold the same seed of the same cell'):
        collect(root='runs more')


def test_published_values_of_ones_own(write_run: Callable, collect: Callable, tmp_path: Path) -> None:
    write_run('icd', 'a_b_images', 0, [74.0])
    file = tmp_path / 'published.csv'
    file.write_text('# a table\nmethod,a_b_images,c_d_images\nICD,73.5,\n')
    assert '74.00 (n=1) [73.50, +0.50]' in collect('--published', file)[0]
    for text in ('', 'a,b\n1,2\n', 'method,a_b_images\nICD,many\n', 'method,a\nICD,1,2\n'):
        file.write_text(text)
        with pytest.raises(SettingError, match=r'--published .* cannot be read'):
            collect('--published', file)
    with pytest.raises(SettingError, match=r'--published .* cannot be read'):
        collect('--published', tmp_path / 'absent.csv')


@pytest.mark.parametrize('suffix', ['.png', '.svg', '.pdf'])
def test_figure(suffix: str, write_run: Callable, collect: Callable, tmp_path: Path) -> None:
    for seed in range(2):
        write_run('icd', PAIR, seed, [74.0 + seed])
    write_run('kd', PAIR, 0, [73.0])
    # names are no formulas
    write_run('icd', r'$\broken$', 0, [])
    file = tmp_path / 'new' / f'figure{suffix}'
    collect('--figure', file)
    content = file.read_bytes()
    assert content.startswith({'.png': b'\x89PNG', '.svg': b'<?xml', '.pdf': b'%PDF'}[suffix])
    if suffix == '.png':
        assert min(struct.unpack('>II', content[16:24])) > 300


def test_the_figure_names_what_is_missing(write_run: Callable, collect: Callable, tmp_path: Path) -> None:
    write_run('icd', PAIR, 0, [74.0])
    write_run('kd', OTHER, 0, [67.0], model='random_teacher=True')
    file = tmp_path / 'figure.svg'
    collect('--figure', file)
    # the picture's letters are shapes, each line a comment before them
    texts = [line.removeprefix('<!-- ').removesuffix(' -->') for line in map(str.strip, file.read_text().splitlines())]
    caption = ' '.join(texts[texts.index('top-1 accuracy after the last epoch (%)') :])
    for cell in (f'icd on {OTHER} (missing)', f'kd on {PAIR} (missing)'):
        assert cell in caption
    assert f'icd on {PAIR}' not in caption
    assert f"see the table's notes: kd on {OTHER}" in caption


def test_bad_arguments_are_messages(collect: Callable, tool: dict, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match='there is no such folder'):
        collect()
    (tmp_path / 'runs' / 'icd' / PAIR / 'seed_x').mkdir(parents=True)
    with pytest.raises(SettingError, match=r'no runs in .*METHODS/PAIR/seed_NUMBER'):
        collect()
    with pytest.raises(SettingError, match=r'--figure .*\.gif: name a file that ends in \.png'):
        collect('--figure', tmp_path / 'figure.gif')
