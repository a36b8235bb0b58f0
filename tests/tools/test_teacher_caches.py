"""Teacher caches that the trainings of a study share, with a stand-in for the trainings."""

import json
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.config import Config

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError

PAIR = 'res20_res8_digits'
MIXUP = ('type=ClsDataPreprocessor', 'batch_augments.augments.type=Mixup', 'batch_augments.augments.alpha=0.8')
Usage = namedtuple('Usage', 'total used free')


@pytest.fixture
def arguments(teacher_file: Callable[..., str], images_file: Path) -> list[str]:
    options = [f'model.teacher_ckpt={teacher_file("res20")}', f'train_dataloader.dataset.data_file={images_file}']
    methods = ['--methods', 'kd', 'icd', 'student', '--pairs', PAIR, '--seeds', '0', '1', '--jobs', '1']
    return [*methods, '--work-dir', 'runs', '--cfg-options', 'train_cfg.max_epochs=2', *options]


def caches(root: Path = Path('runs', 'own', 'published')) -> dict[tuple[str, str], str]:
    """Return the cache that each training was given, by method and seed."""
    return {(file.parts[-4], file.parts[-2]): file.read_text() for file in root.glob('*/*/*/cache')}


def test_distillations_share_a_cache(
    arguments: list[str], run: ModuleType, tool: Callable, capsys: pytest.CaptureFixture
) -> None:
    run.main(arguments)
    given = caches()
    assert given.keys() == {(methods, f'seed_{seed}') for methods in ('kd', 'icd') for seed in (0, 1)}
    (cache,) = {*given.values()}
    assert Path(cache).parent == Path('runs', 'own', 'teacher_caches').resolve()
    assert Path(cache).name.startswith('res20_digits-')
    # the training is the same without it
    for file in Path('runs').rglob('trial.json'):
        assert 'teacher_cache' not in file.read_text()
    for file in Path('runs').rglob('result.json'):
        result = json.loads(file.read_text())
        assert not any('teacher_cache' in option for option in result['options'])
        assert ('teacher_asked' in result) == (result['methods'] != 'student')
    capsys.readouterr()
    Path('page.md').write_text('<!-- own: sessions -->\n<!-- end -->\n')
    tool('table').main(['runs', '--json', 'results.json', '--pages', 'page.md'])
    # 200 of each in the stand-in, which ran the teacher on 10 images and one more with seed 1
    sentence = 'In 4 trainings with a teacher cache, the teacher ran on 42 images instead of 800 (5.2 %).'
    assert sentence in capsys.readouterr().out
    assert sentence in Path('page.md').read_text()
    tool('table').main(['results.json', '--pages', 'page.md', '--check'])


def test_a_study_can_do_without(
    arguments: list[str], run: ModuleType, tool: Callable, capsys: pytest.CaptureFixture
) -> None:
    run.main([*arguments, '--seeds', '0', '--no-teacher-cache'])
    assert not caches()
    tool('table').main(['runs'])
    assert 'teacher cache' not in capsys.readouterr().out
    # its folders are of the same trainings
    run.main(arguments)
    assert {seed for _, seed in caches()} == {'seed_1'}


def test_a_cache_that_the_options_name_is_kept(arguments: list[str], run: ModuleType) -> None:
    run.main([*arguments, 'icd:model.teacher_cache.views=1', 'icd:model.teacher_cache.path=elsewhere'])
    assert caches()['icd', 'seed_0'] == 'elsewhere'
    assert len({*caches().values()}) == 2
    # it may have moved
    run.main([*arguments, 'icd:model.teacher_cache.views=1', 'icd:model.teacher_cache.path=/moved'])
    with pytest.raises(SettingError, match=r'model\.teacher_cache\.views is 1 there, 2 here'):
        run.main([*arguments, 'icd:model.teacher_cache.views=2', 'icd:model.teacher_cache.path=elsewhere'])


@pytest.mark.parametrize(
    ('more', 'reason'),
    [
        (['--max-cache-size', '1e-6'], 'it needs 486.4 KB, more than --max-cache-size 1e-06'),
        (['default_hooks.whole_batches.max_memory=0'], 'whole_batches is off'),
        ([f'model.data_preprocessor.{setting}' for setting in MIXUP], 'mixed at random'),
        (['train_dataloader.dataset.pipeline.1.meta_keys=[sample_idx,ori_shape]'], "model.teacher_cache.views='all'"),
        (['train_dataloader.dataset.data_file=absent.npz'], 'absent.npz'),
    ],
)  # fmt: skip
def test_without_a_cache_if_it_cannot_be(
    more: list[str], reason: str, arguments: list[str], run: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    place = arguments.index('--work-dir')
    more, options = (more, []) if more[0].startswith('--') else ([], more)
    run.main([*arguments[:place], '--methods', 'icd', '--seeds', '0', *more, *arguments[place:], *options])
    assert not caches()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith('without the teacher cache'))
    assert reason in line, line


def test_two_views_have_no_cache(arguments: list[str], run: ModuleType, capsys: pytest.CaptureFixture) -> None:
    options = [option.replace('dataset.data_file', 'dataset.dataset.data_file') for option in arguments]
    run.main([*options[: options.index('kd')], 'mlkd', *options[options.index('--pairs') :]])
    assert not caches()
    assert 'without the teacher cache res20_digits-' in (printed := capsys.readouterr().out)
    assert 'a batch of a TwoViewDataset has two views of each image' in printed


def test_all_caches_of_a_study_must_fit_on_the_disk(
    arguments: list[str],
    run: ModuleType,
    tool: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    # 64 images, 25 crops, 64 + 10 numbers and a checksum: 486,400 bytes for each precision
    monkeypatch.setattr(tool('caches').shutil, 'disk_usage', lambda _: Usage(0, 0, 950_000))
    run.main([*arguments, 'icd:model.teacher_precision=bf16'])
    assert len({*caches().values()}) == 1
    assert 'it needs 486.4 KB more, and the disk has 463.6 KB' in capsys.readouterr().out


def test_caches_have_the_names_of_what_is_in_them(tool: Callable) -> None:
    def name(*options: str, pair: str = PAIR, methods: str = 'icd') -> str:
        return tool('caches').cache_name(tool('run').configured(pair, methods, options), pair)

    same = [name(), name(methods='kd'), name('optim_wrapper.optimizer.lr=1', 'train_dataloader.batch_size=7')]
    same += [name('model.architecture.backbone.depth=14'), name('randomness.seed=3', 'train_cfg.max_epochs=1')]
    assert len({*same}) == 1
    others = [
        name('train_dataloader.dataset.indices=7'),
        name('train_dataloader.dataset.pipeline.0.padding=1'),
        name('data_preprocessor.std=[1.0,1.0,1.0]'),
        name('model.teacher_precision=bf16'),
        name('model.teacher_ckpt=another.pth'),
        name('model.channels_last=False'),
        name('optim_wrapper.type=AutocastOptimWrapper'),
        name('default_hooks.whole_batches.max_memory=1'),
        name(pair='res20_res14_digits'),
    ]
    # the last is another student of the same teacher
    assert len({*same, *others}) == len(others)
    assert others[-1] == same[0]


def test_a_config_is_checked_without_its_cache(tool: Callable, tmp_path: Path) -> None:
    folder = tmp_path / 'cache'
    folder.mkdir()
    (folder / 'about.json').write_text('{')  # damaged, if it were read
    options = ['model.teacher_cache.views=all', f'model.teacher_cache.path={folder}']
    cfg = tool('run').configured(PAIR, 'icd', options)
    assert cfg.model.teacher_cache == dict(views='all', path=str(folder))
    with pytest.raises(SettingError, match='teacher_cache'):
        tool('run').configured(PAIR, 'icd', ['model.teacher_cache.views=some'])


def test_few_calls_train_on_few_images_for_as_long(tool: Callable) -> None:
    studies = tool('studies')
    study, steps = studies.STUDIES['calls'], []
    axis = study.axes['calls']
    (pair,) = study.pairs
    for tick, name in axis.values.items():
        images, point = int(tick.replace(',', '')), study.points[name]
        cfg: Config = tool('run').configured(pair, 'kd', tool('run').options_for('kd', point.options))
        epochs = cfg.train_cfg.max_epochs
        assert cfg.train_dataloader.dataset.indices == images == cfg.model.teacher_cache.max_teacher_calls
        assert images * epochs == 8 * 5_000
        steps.append(epochs * -(-images // cfg.train_dataloader.batch_size))
        # divided at the published fractions of a run, and validated at its end
        assert [8 * milestone / epochs for milestone in cfg.param_scheduler.milestones] == [5, 6, 7]
        assert cfg.train_cfg.val_interval == epochs == 8 * cfg.default_hooks.checkpoint.interval
        alone = tool('run').options_for(recipes.STUDENT_ALONE, point.options)
        assert not any('teacher' in option for option in alone)
        assert f'train_dataloader.dataset.indices={images}' in alone
    assert max(steps) - min(steps) <= 8


def test_a_study_without_published_settings_is_tabled(tool: Callable, capsys: pytest.CaptureFixture) -> None:
    study = tool('studies').STUDIES['calls']
    runs = [
        dict(point=point, methods=methods, pair=study.pairs[0], seed=seed, epochs=8, options=[], accuracy=50.0 + seed,
             seconds=60.0, resumed=False, session='2026')
        for point, settings in study.points.items() for methods in settings.methods for seed in study.seeds
    ]  # fmt: skip
    machine = dict(cores=1, processor='a', instructions='b', python='3', torch='2')
    session = dict(
        started='2026', commit='c', machine=machine, cores_used=1, gpus=None, slots=1, trainings=1, minutes=1
    )
    Path('results.json').write_text(json.dumps({'calls': dict(sessions=[session], teachers=[], runs=runs)}))
    tool('table').main(['results.json', '--figures', 'figures'])
    shown = capsys.readouterr().out
    assert '| 2,500 | 51.00 ± 1.00 | 51.00 ± 1.00 |' in shown
    assert 'calls: table' not in shown
    assert Path('figures', 'results_calls.png').is_file()
    # each method has its own colour
    results = tool('table').studies_in(tool('table').read(Path('results.json')))['calls']
    panel = tool('table').draw_axes(results, [*study.axes.values()]).axes[0]
    colours = {tuple(points.get_facecolor()[0]) for points in panel.collections if len(points.get_facecolor())}
    assert len(colours) == len(study.points['calls-500'].methods)
