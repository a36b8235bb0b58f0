"""Studies: what is trained and kept, and the tables and figures that come of it."""

import json
import re
import runpy
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ROOT, TOOLS

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.utils.cell_options import merge_options, options_of

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
    teacher = Path(recipes.compose(PAIR, ['icd']).model.teacher_ckpt)
    teacher.parent.mkdir(parents=True)
    teacher.touch()

    def train(*arguments: str) -> None:
        tools['run_study']['main'](['small', '--jobs', '2', '--keep', 'kept', *arguments], front=STAND_IN)

    return train


def test_a_study_is_trained_in_parts_and_kept(study: Callable, tools: dict, capsys: pytest.CaptureFixture) -> None:
    kept, folder = Path('kept', 'small'), Path('work_dirs', 'studies', 'small')
    study('--points', 'published', '--methods', 'icd', '--seeds', '1')
    assert [str(file.relative_to(kept)) for file in sorted(kept.rglob('*')) if file.is_file()] == [
        f'published/icd/{PAIR}/seed_1/{name}'
        for name in ('20260100_000000/vis_data/scalars.json', 'result.json', 'trial.json')
    ] + ['sittings.json']
    study()
    study()  # nothing is left to do
    first, second = json.loads((kept / 'sittings.json').read_text())
    assert first['trained'] == [f'published/icd/{PAIR}/seed_1']
    assert len(second['trained']) == 7
    assert second['at a time'] == 2
    assert second['machine']['device'] == 'cpu'
    assert (folder / 'sittings.json').read_text() == (kept / 'sittings.json').read_text()
    trial = json.loads((kept / 'alpha-1' / 'icd' / PAIR / 'seed_0' / 'trial.json').read_text())
    assert trial['model']['distiller']['icd'] == {'alpha': 1}
    assert trial['randomness']['seed'] == 0
    assert json.loads((kept / 'two' / 'icd' / PAIR / 'seed_0' / 'trial.json').read_text())['processes'] == 2

    page = Path('page.md')
    page.write_text('Before.\n<!-- small: alpha -->\nold\n<!-- end -->\nAfter.\n')
    capsys.readouterr()
    tools['collect_study']['main'](['kept', '--pages', 'page.md', '--figures', 'figures'])
    # the stand-in's accuracies: those of ICD are 20.3 and 21.3 with the seeds, and 1 more at alpha=1
    rows = ['| 0.5 (published) | 20.80 ± 0.71 |', '| 1 | 21.80 ± 0.71 |', '| student alone | 21.20 ± 0.71 |']
    table = '\n'.join(['| weight | ICD, top-1 (%) |', '|---|---:|', *rows])
    assert page.read_text() == f'Before.\n<!-- small: alpha -->\n\n{table}\n\n<!-- end -->\nAfter.\n'
    assert table in capsys.readouterr().out
    assert sorted(file.name for file in Path('figures').iterdir()) == [
        'results_small_alpha.png',
        'results_small_alpha.svg',
    ]
    svg = Path('figures', 'results_small_alpha.svg').read_text()
    for words in ('weight', 'ICD, published setting', 'student alone'):
        assert f'<!-- {words} -->' in svg


def test_part_of_a_study_is_shown_as_what_it_is(study: Callable, tools: dict, capsys: pytest.CaptureFixture) -> None:
    study('--points', 'two')
    tools['collect_study']['main'](['kept', '--figures', 'figures'])
    assert '| 0.5 (published) | not run |' in capsys.readouterr().out
    assert not list(Path('figures').glob('*'))
    study('--points', 'published', '--seeds', '1', '3')
    tools['collect_study']['main'](['kept', '--figures', 'figures'])
    shown = capsys.readouterr().out
    assert '| ICD | 22.30 ± 1.41 (seeds 1, 3) | -0.40 |' in shown
    assert '| 0.5 (published) | 22.30 ± 1.41 (seeds 1, 3) |' in shown
    assert list(Path('figures').glob('*'))


def test_the_time_of_a_resumed_training_is_not_averaged(study: Callable, tools: dict) -> None:
    study('--points', 'published', '--methods', 'icd')
    folders = sorted(file.parent for file in Path('kept', 'small', 'published').rglob('result.json'))
    for folder, seconds in zip(folders, (60, 6), strict=True):
        (folder / 'result.json').write_text(json.dumps({'accuracy': 1, 'epochs': 2, 'seconds': seconds, 'pace': 3}))
    (log,) = folders[1].glob('*/vis_data/scalars.json')
    earlier = folders[1] / '20251231_000000' / 'vis_data' / 'scalars.json'
    earlier.parent.mkdir(parents=True)
    shutil.copy(log, earlier)
    results = tools['collect_study']['Results'](sys.modules['studies'].STUDIES['small'], Path('kept', 'small'))
    assert results.minutes('published', 'icd', PAIR) == 1


def test_a_broken_kept_training_is_named_and_can_be_mended(study: Callable, tools: dict) -> None:
    study('--points', 'published', '--methods', 'icd', '--seeds', '0')
    (file,) = Path('kept', 'small', 'published').rglob('result.json')
    whole = file.read_bytes()
    file.write_bytes(whole[:20])
    with pytest.raises(SettingError, match=f'{file.parent} is broken .* Delete that folder'):
        tools['collect_study']['main'](['kept'])
    shutil.rmtree(file.parent)
    study('--points', 'published', '--methods', 'icd', '--seeds', '0')
    assert file.read_bytes() == whole
    tools['collect_study']['main'](['kept'])


def test_what_was_kept_of_another_run_stays(study: Callable) -> None:
    study('--points', 'published')
    kept = {file: file.read_bytes() for file in Path('kept').rglob('*') if file.is_file()}
    with pytest.raises(SettingError, match='--keep kept: kept/small holds trainings that are not those in') as error:
        study('--work-dir', 'other')
    assert {file: file.read_bytes() for file in Path('kept').rglob('*') if file.is_file()} == kept
    assert not list(Path('other').rglob('train.log'))
    # the remedy
    other = re.search(r'copy it to (\S+) to go on', str(error.value))[1]
    shutil.copytree('kept/small', other, dirs_exist_ok=True)
    study('--work-dir', 'other')
    first, second = json.loads(Path('kept', 'small', 'sittings.json').read_text())
    assert [len(sitting['trained']) for sitting in (first, second)] == [4, 4]
    assert {file: file.read_bytes() for file in kept if file.name != 'sittings.json'} == {
        file: content for file, content in kept.items() if file.name != 'sittings.json'
    }


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--points', 'alpha-2'], "no point 'alpha-2'. Did you mean alpha-1"),
        (['--methods', 'idc'], "no method 'idc'. Did you mean icd"),
        (['--pairs', 'res20'], "no pair 'res20'. Did you mean res20_res8_digits"),
        (['--points', 'two', '--methods', 'student'], '--points two are not trained with student'),
        (['--jobs', '0'], '--jobs is the number of cells'),
        (['--seeds', '-1'], 'seed -1'),
        (['--work-dir', 'file'], '--work-dir file is a file'),
        (['--keep', 'file'], '--keep file is a file'),
    ],
    ids=lambda value: ' '.join(value)[:30],
)
def test_what_a_study_does_not_have_is_refused(arguments: list[str], message: str, study: Callable) -> None:
    Path('file').touch()
    with pytest.raises(SettingError, match=re.escape(message)):
        study(*arguments)
    assert not Path('kept').exists()


@pytest.mark.usefixtures('study')
def test_gpus_must_suffice_for_all_points(tools: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    with pytest.raises(SettingError, match='--gpus 0: cells in 2 processes need 2 GPUs each'):
        tools['run_study']['main'](['small', '--gpus', '0'], front=STAND_IN)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('Nothing.\n', 'it asks for nothing'),
        (
            '<!-- small: alpha -->\nlost?\n<!-- small: table -->\n<!-- end -->\n',
            'behind <!-- small: alpha --> there is no',
        ),
        ('<!-- small: alhpa -->\n<!-- end -->\n', "no part 'alhpa'. Did you mean alpha"),
        ('<!-- smal: alpha -->\n<!-- end -->\n', "no study 'smal'. Did you mean small"),
    ],
)
def test_a_page_that_cannot_be_filled_in_stays(text: str, message: str, study: Callable, tools: dict) -> None:
    study('--points', 'published', '--methods', 'icd', '--seeds', '0')
    Path('page.md').write_text(text)
    with pytest.raises(SettingError, match=f'--pages page.md: .*{re.escape(message)}'):
        tools['collect_study']['main'](['kept', '--pages', 'page.md', '--figures', 'figures'])
    assert Path('page.md').read_text() == text
    assert not Path('figures').exists()


def test_a_failed_training_is_named_and_the_others_are_kept(study: Callable) -> None:
    folder = Path('work_dirs', 'studies', 'small', 'published')
    folder.mkdir(parents=True)
    (folder / 'fail').write_text('icd 1')
    with pytest.raises(UserError, match=r'1 of 8 trainings failed[^$]*published icd .* seed 1: [^$]*no paint left'):
        study()
    assert len(list(Path('kept').rglob('result.json'))) == 7


def test_teachers_are_trained_where_they_are_needed(
    tools: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no data, so that the training of a teacher fails."""
    parts = sys.modules['studies']
    point = parts.Point(('student', 'icd'), ('train_cfg.max_epochs=2',))
    study = parts.Study('', ('res20_res8_cifar10-5k',), {'published': point}, ('res20_cifar10-16k',), seeds=(0,))
    monkeypatch.setitem(parts.STUDIES, 'small', study)
    monkeypatch.chdir(tmp_path)

    def train(*arguments: str) -> None:
        tools['run_study']['main'](['small', '--jobs', '1', *arguments], front=STAND_IN)

    teacher = Path('work_dirs', 'res20_cifar10-16k')
    with pytest.raises(SettingError, match='seed -1'):
        train('--seeds', '-1')
    train('--methods', 'student')
    assert not teacher.exists()
    with pytest.raises(UserError, match='teacher res20_cifar10-16k: the training failed'):
        train()
    # one from elsewhere is taken, one of which the training was stopped is not
    (teacher / 'epoch_8.pth').touch()
    assert tools['run_study']['Teacher'](teacher.name).missing
    (teacher / 'train.log').unlink()
    train()


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
    monkeypatch.chdir(tmp_path)
    # that every method can be composed with every pair is tested with the benchmark
    some = {'cifar100': ['--pairs', 'res56_res20_cifar100', 'res50_mobilenetv2_cifar100']}
    for name, study in sys.modules['studies'].STUDIES.items():
        study = tools['run_study']['part_of'](study, tools['run_study']['parse_args']([name, *some.get(name, [])]))
        teachers = [tools['run_study']['Teacher'](teacher) for teacher in study.teachers]
        cells = tools['run_study']['compose_cells'](study, tmp_path / name, STAND_IN, teachers)
        folders = {cell.folder for cell in cells}
        assert len(folders) == len(cells)
        places = {tools['run_study']['where'](cell) for cell in cells}
        assert places == {folder.relative_to(tmp_path / name) for folder in folders}
        # the first seed of all before the second of any
        seeds = [int(folder.name.removeprefix('seed_')) for folder in (cell.folder for cell in cells)]
        assert seeds == sorted(seeds)
        for axis in study.axes.values():
            assert {*axis.values.values()} <= study.points.keys()
    for study in sys.modules['studies'].STUDIES.values():
        assert {sys.modules['studies'].teacher_of(pair) for pair in study.pairs} == {*study.teachers}


def test_the_form_of_rrd_that_was_measured_is_that_of_the_study(tools: dict) -> None:
    """The benchmark's preset has another one since: see configs/rrd/README.md."""
    run_study, pair = tools['run_study'], 'res56_res20_cifar10-5k'
    study = sys.modules['studies'].STUDIES['cifar10-5k']
    (options,) = (point.options for point in study.points.values())
    cfg = recipes.compose(pair, ['rrd'])
    merge_options(cfg, 'rrd', options_of('rrd', options))
    trained = json.loads((KEPT / 'cifar10-5k' / 'published' / 'rrd' / pair / 'seed_0' / 'trial.json').read_text())
    assert cfg.to_dict()['model']['distiller'] == trained['model']['distiller']
    # and a part of the study without it can be trained
    part = run_study['part_of'](study, run_study['parse_args'](['cifar10-5k', '--methods', 'dcd', 'kd']))
    assert [(point.methods, point.options) for point in part.points.values()] == [(('kd', 'icd'), ())]


def test_the_pages_show_what_is_kept(tools: dict) -> None:
    collect_study = tools['collect_study']
    studies = collect_study['read_studies'](KEPT)
    for page in PAGES:
        text = page.read_text()
        assert BLOCK.search(text), page
        assert collect_study['filled'](text, studies) == text, f'collect_study.py docs/results --pages {page}'


def kept_accuracies(folder: Path) -> list[float]:
    """Read the last accuracies of the seeds below a folder, without the package; a resumed run has several logs."""
    accuracies = []
    for seed in sorted(folder.glob('seed_*')):
        logs = [file.read_text().splitlines() for file in sorted(seed.glob('*/vis_data/scalars.json'))]
        lines = [json.loads(line) for log in logs for line in log]
        accuracies.append([line['accuracy/top1'] for line in lines if 'accuracy/top1' in line][-1])
    return accuracies


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
            if len(accuracies) > 1:
                assert float(spread) == pytest.approx(statistics.stdev(accuracies), abs=0.006)
            checked += 1
    assert checked
