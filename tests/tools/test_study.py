"""Studies: what is trained and kept, and the tables and figures that come of it."""

import json
import re
import runpy
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ROOT, TOOLS

from icd_mmrazor import benchmark
from icd_mmrazor.utils.errors import SettingError, UserError

BENCHMARKS = TOOLS / 'benchmarks'
STAND_IN = Path(__file__).with_name('stand_in_training.py')
PAIR = 'res20_res8_digits'
KEPT = ROOT / 'docs' / 'results'
PAGES = [ROOT / 'README.md', ROOT / 'docs' / 'results.md']
CHECKED = ('cifar10-5k', 'table')
BLOCK = re.compile(r'<!-- ([\w-]+): ([\w-]+) -->\n(.*?)<!-- end -->', re.DOTALL)


@pytest.fixture(scope='module')
def tools() -> Iterator[dict[str, dict]]:
    """Return what the two tools define; their parts lie beside them, as when they are started."""
    sys.path.insert(0, str(BENCHMARKS))
    yield {name: runpy.run_path(str(BENCHMARKS / f'{name}.py')) for name in ('run_study', 'collect_study')}
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def study(tools: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Add a study of three points and return a function that trains it in an empty folder, with a stand-in."""
    parts = sys.modules['studies']
    options = ('train_cfg.max_epochs=2',)
    points = {
        'published': parts.Point(('student', 'icd'), options),
        'alpha-1': parts.Point(options=(*options, 'model.distiller.icd.alpha=1')),
        'two': parts.Point(options=options, processes=2),
    }
    axis = parts.Axis('weight', {'0.5': 'published', '1': 'alpha-1'})
    small = parts.Study('small', (PAIR,), points, (), seeds=(0, 1), axes={'alpha': axis})
    monkeypatch.setitem(parts.STUDIES, 'small', small)
    monkeypatch.chdir(tmp_path)
    teacher = Path(benchmark.compose(PAIR, ['icd']).model.teacher_ckpt)
    teacher.parent.mkdir(parents=True)
    teacher.touch()

    def train(*arguments: str) -> None:
        tools['run_study']['main'](['small', '--jobs', '2', '--keep', 'kept', *arguments], front=STAND_IN)

    return train


def test_a_study_is_trained_in_parts_and_kept(study: Callable, tools: dict, capsys: pytest.CaptureFixture) -> None:
    kept = Path('kept', 'small')
    study('--points', 'published', '--methods', 'icd', '--seeds', '1')
    assert [str(file.relative_to(kept)) for file in sorted(kept.rglob('*')) if file.is_file()] == [
        f'published/icd/{PAIR}/seed_1/{name}'
        for name in ('20260100_000000/vis_data/scalars.json', f'icd_{PAIR}.py', 'result.json', 'trial.json')
    ] + ['sittings.json']
    study()
    study()  # nothing is left to do
    first, second = json.loads((kept / 'sittings.json').read_text())
    assert first['trained'] == [f'published/icd/{PAIR}/seed_1']
    assert len(second['trained']) == 7
    trial = json.loads((kept / 'alpha-1' / 'icd' / PAIR / 'seed_0' / 'trial.json').read_text())
    assert trial['model']['distiller']['icd'] == {'alpha': 1}
    assert trial['randomness']['seed'] == 0
    assert json.loads((kept / 'two' / 'icd' / PAIR / 'seed_0' / 'trial.json').read_text())['processes'] == 2

    page = Path('page.md')
    page.write_text('Before.\n<!-- small: alpha -->\nold\n<!-- end -->\nAfter.\n')
    capsys.readouterr()
    tools['collect_study']['main'](['kept', '--pages', 'page.md', '--figures', 'figures'])
    # the stand-in's accuracies: 20.3 and 21.3
    table = '| weight | ICD, top-1 (%) |\n|---|---:|\n| 0.5 (published) | 20.80 ± 0.71 |\n| 1 | 20.80 ± 0.71 |'
    assert page.read_text() == f'Before.\n<!-- small: alpha -->\n\n{table}\n\n<!-- end -->\nAfter.\n'
    assert table in capsys.readouterr().out
    assert sorted(file.name for file in Path('figures').iterdir()) == [
        'results_small_alpha.png',
        'results_small_alpha.svg',
    ]
    svg = Path('figures', 'results_small_alpha.svg').read_text()
    for words in ('weight', 'ICD, published setting', 'student alone'):
        assert f'<!-- {words} -->' in svg


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--points', 'alpha-2'], "no point 'alpha-2'. Did you mean alpha-1"),
        (['--methods', 'idc'], "no method 'idc'. Did you mean icd"),
        (['--pairs', 'res20'], "no pair 'res20'. Did you mean res20_res8_digits"),
        (['--points', 'two', '--methods', 'student'], '--points two are not trained with student'),
        (['--jobs', '0'], '--jobs is the number of cells'),
        (['--seeds', '-1'], 'seed -1'),
    ],
    ids=lambda value: ' '.join(value)[:30],
)
def test_what_a_study_does_not_have_is_refused(arguments: list[str], message: str, study: Callable) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        study(*arguments)
    assert not Path('kept').exists()


def test_a_failed_training_is_named_and_the_others_are_kept(study: Callable) -> None:
    folder = Path('work_dirs', 'studies', 'small', 'published')
    folder.mkdir(parents=True)
    (folder / 'fail').write_text('icd 1')
    with pytest.raises(UserError, match=r'1 of 6 trainings failed[^$]*published icd .* seed 1: [^$]*no paint left'):
        study()
    assert len(list(Path('kept').rglob('result.json'))) == 5


def test_cifar100_stands_ready(tools: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to where the data are read: the archive is broken, which the first training, that of a teacher, finds."""
    monkeypatch.chdir(tmp_path)
    Path('data', 'cifar100').mkdir(parents=True)
    Path('data', 'cifar100', 'cifar-100-python.tar.gz').touch()
    arguments = ['cifar100', '--pairs', 'res56_res20_cifar100', '--methods', 'icd', '--seeds', '0', '--jobs', '1']
    with pytest.raises(UserError, match=r'teacher res56_cifar100: the training failed[^$]*VerifiedCIFAR100: data_root'):
        tools['run_study']['main'](arguments)
    assert [folder.name for folder in Path('work_dirs').iterdir() if folder.name != 'studies'] == ['res56_cifar100']


def test_every_study_can_be_composed(tools: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point's settings are taken by what they are for, and no two cells share a folder."""
    run_trials = sys.modules['run_trials']
    monkeypatch.setattr(run_trials, 'lacks_teacher', lambda _: False)
    for name, study in sys.modules['studies'].STUDIES.items():
        cells = tools['run_study']['compose_cells'](study, tmp_path / name, STAND_IN)
        folders = {cell.folder for cell in cells}
        assert len(folders) == len(cells)
        places = {tools['run_study']['where'](cell) for cell in cells}
        assert places == {folder.relative_to(tmp_path / name) for folder in folders}
        # the first seed of all before the second of any
        seeds = [int(folder.name.removeprefix('seed_')) for folder in (cell.folder for cell in cells)]
        assert seeds == sorted(seeds)
        for axis in study.axes.values():
            assert {*axis.values.values()} <= study.points.keys()
        assert {sys.modules['studies'].teacher_of(pair) for pair in study.pairs} == {*study.teachers}


def test_the_pages_show_what_is_kept(tools: dict) -> None:
    for page in PAGES:
        text = page.read_text()
        assert BLOCK.search(text), page
        assert tools['collect_study']['filled'](text, KEPT) == text, f'collect_study.py docs/results --pages {page}'


def kept_accuracies(folder: Path) -> list[float]:
    """Read the last accuracies of the seeds below a folder, without the package."""
    lines = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(folder.glob('seed_*/*/vis_data/scalars.json'))
    ]
    return [[line['accuracy/top1'] for line in run if 'accuracy/top1' in line][-1] for run in lines]


def test_the_numbers_of_the_table_are_those_of_the_logs() -> None:
    (table,) = (text for study, part, text in BLOCK.findall(PAGES[1].read_text()) if (study, part) == CHECKED)
    names = {'student alone': 'student'}
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.strip().splitlines()[2:]]
    checked = 0
    for name, *cells in rows[1:]:
        methods = names.get(name, name.lower())
        for place, pair in enumerate(('res56_res20_cifar10-5k', 'wrn40-2_wrn16-2_cifar10-5k')):
            accuracies = kept_accuracies(KEPT / 'cifar10-5k' / 'published' / methods / pair)
            if not accuracies:
                assert cells[3 * place] == 'not run'
                continue
            mean, spread = re.findall(r'[\d.]+', cells[3 * place])[:2]
            assert float(mean) == pytest.approx(statistics.mean(accuracies), abs=0.006)
            assert float(spread) == pytest.approx(statistics.stdev(accuracies), abs=0.006)
            checked += 1
    assert checked
