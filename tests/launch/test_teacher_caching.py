"""Outputs that are computed ahead: those that a training stores, and trainings that need no teacher for them."""

import argparse
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cached_trainings import ALL, counts, other_than_counts, short_training, trained
from helpers import logged
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from icd_mmrazor.errors import CacheError, SettingError, UserError
from icd_mmrazor.launch import teacher_caching
from icd_mmrazor.launch.teacher_caching import BATCH_SIZE, Filling, check_config, conclusion, fill_cache, part_of
from icd_mmrazor.models.teacher_cache.store import OutputStore
from icd_mmrazor.models.teacher_cache.store_folder import ROWS

pytestmark = pytest.mark.slow

ONE = {'views': 1, 'verify': 0}
ERASE = dict(type='RandomErasing', erase_prob=0.5, mode='rand')
# 5 x 5 crops, flipped or not, of 64 images
NUMBER = 50 * 64


@pytest.fixture
def config(demo_config: Callable, tmp_path: Path) -> Callable[..., Config]:
    """Return the config of a short training, see :func:`short_training`."""
    return partial(short_training, demo_config, tmp_path)


@pytest.fixture
def fill(request: pytest.FixtureRequest) -> Callable[..., OutputStore]:
    """Fill the cache of a config; each run has its own name, which mmengine keeps its logger under."""
    count = iter(range(1000))

    def work(cfg: Config, **settings: object) -> OutputStore:
        cfg.experiment_name = f'{request.node.name}_filled_{next(count)}'
        return fill_cache(cfg, **settings)

    return work


def contents(store: OutputStore) -> dict[int, bytes]:
    """Return the stored rows by their numbers."""
    values, found = store.read(np.arange(store.rows))
    return {int(row): values[row].tobytes() for row in np.flatnonzero(found)}


def test_a_training_without_the_teachers_file_is_the_same_bit_for_bit(config, runner, fill):
    plain = trained(config('icd+kd'), runner)
    assert fill(config('icd', ALL)).complete
    cfg = config('icd+kd', ALL, 'without')
    Path(cfg.model.teacher_ckpt).unlink()
    assert other_than_counts(plain, trained(cfg, runner)) == []
    assert counts(cfg) == (128, 0)
    assert f'the teacher is not loaded: its outputs are in {cfg.model.teacher_cache.path}.' in logged(cfg)


def test_outputs_are_those_that_a_training_stores(config, runner, fill, tmp_path):
    cfg = config('icd', ALL)
    trained(cfg, runner)
    stored = contents(OutputStore.open(Path(cfg.model.teacher_cache.path), {}))
    assert 64 < len(stored) <= 128
    # the last batch is of 2 images
    ahead = contents(fill(config('kd', ALL | {'path': str(tmp_path / 'outputs_ahead')}, 'ahead'), batch_size=42))
    assert len(ahead) == NUMBER
    assert {row: ahead[row] for row in stored} == stored


@pytest.mark.parametrize(('pipeline', 'workers'), [('crops and flips', 0), ('erasing', 2)])
def test_fixed_views_are_those_of_a_training(pipeline, workers, config, runner, fill, tmp_path):
    def make(work_dir: str, cache: dict | None) -> Config:
        cfg = config('icd', cache, work_dir, **{'train_dataloader.num_workers': workers})
        if pipeline == 'erasing':
            cfg.train_dataloader.dataset.pipeline.insert(2, ERASE)
        return cfg

    views = {'views': 2, 'verify': 0}
    cfg = make('trained', views)
    trained(cfg, runner)
    # two passes show both views
    stored = contents(OutputStore.open(Path(cfg.model.teacher_cache.path), {}))
    assert len(stored) == 128
    ahead = views | {'path': str(tmp_path / 'outputs_ahead')}
    assert contents(fill(make('ahead', ahead))) == stored
    again = make('again', ahead)
    again.model.teacher_ckpt = None
    assert other_than_counts(trained(cfg, runner), trained(again, runner)) == []
    assert counts(again) == (128, 0)


def test_parts_and_what_was_interrupted_complete_each_other(config, fill, capsys, monkeypatch):
    cfg = config('icd', ALL)
    store = fill(cfg, part=(1, 3))
    assert sorted(contents(store)) == np.array_split(np.arange(NUMBER), 3)[1].tolist()
    cfg.experiment_name = 'interrupted'
    filling = Filling(cfg, 100, 0, 3)
    first = filling.rows[:100].tolist()

    def stop(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filling.run(stop)
    assert {*contents(store)} >= {*first}
    known = contents(store)
    assert len(known) == len(np.array_split(np.arange(NUMBER), 3)[1]) + 100
    capsys.readouterr()
    store = fill(cfg)
    assert store.complete
    assert contents(store).items() >= known.items()
    printed = capsys.readouterr()
    assert f'{len(known):,} are there' in printed.out
    # a complete one takes no time
    monkeypatch.setattr(teacher_caching.TeacherCache, 'add', None)
    fill(cfg)


def test_several_processes_share_the_work(config, fill, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(teacher_caching, 'START_METHOD', 'fork')
    alone = fill(config('icd', ALL))
    shared = fill(config('icd', ALL | {'path': str(tmp_path / 'outputs_shared')}, 'shared'), processes=2)
    assert contents(shared) == contents(alone)
    assert 'shared' in capsys.readouterr().out


def test_an_error_of_a_process_ends_all(config, fill, monkeypatch):
    monkeypatch.setattr(teacher_caching, 'START_METHOD', 'fork')
    cfg = config('icd', ALL)
    cfg.model.teacher_ckpt = 'missing.pth'
    with pytest.raises(UserError, match=r'missing\.pth'):
        fill(cfg, processes=2)

    def fail(self: Filling, tell: object = None) -> None:
        raise ZeroDivisionError('the second one') if self.rows[0] else SystemExit(0)

    monkeypatch.setattr(Filling, 'run', fail)
    with pytest.raises(ProcessRaisedException, match='the second one'):
        fill(config('icd', ALL), processes=2)


def test_a_killed_process_is_told(config, fill, monkeypatch):
    monkeypatch.setattr(teacher_caching, 'START_METHOD', 'fork')
    monkeypatch.setattr(Filling, 'run', lambda self: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match='SIGKILL'):
        fill(config('icd', ALL), processes=2)


MIXUP = dict(augments=[dict(type='Mixup', alpha=0.2)])


@pytest.mark.parametrize(
    ('methods', 'cache', 'options', 'message'),
    [
        ('icd', None, {}, 'no model.teacher_cache'),
        ('icd', {'views': 'first'}, {}, "views='first'"),
        ('icd', {'views': 'few'}, {}, "views='few'"),
        ('at', ALL, {}, r'cannot be filled: the method compares map'),
        ('icd', ALL, {'model.architecture.train_cfg': MIXUP}, 'Mixup mixes other images'),
        ('icd', ALL | {'max_teacher_calls': 3199}, {}, r'max_teacher_calls=3199: the cache has 3,200'),
        ('icd', ALL | {'max_size': '10KB'}, {}, 'max_size is 10 KB'),
    ],
)
def test_what_cannot_be_filled_is_refused(methods, cache, options, message, config, fill, monkeypatch):
    monkeypatch.setattr(teacher_caching.TeacherCache, 'add', None)
    with pytest.raises(SettingError, match=message):
        fill(config(methods, cache, **options))


def test_pipelines_with_more_than_crops_and_flips_are_refused(config, fill):
    cfg = config('icd', ALL)
    cfg.train_dataloader.dataset.pipeline.insert(2, ERASE)
    with pytest.raises(SettingError, match='RandomErasing'):
        fill(cfg)


def test_a_config_without_a_distillation_is_refused(demo_config):
    cfg = demo_config('res20_digits')
    with pytest.raises(SettingError, match=r'not of a distillation: its model is ImageClassifier'):
        check_config(cfg)


def test_a_limit_of_calls_that_suffices_is_kept(config, fill):
    cfg = config('icd', {'views': 1, 'max_teacher_calls': 64})
    assert fill(cfg, batch_size=60).complete


def test_a_folder_that_takes_no_more_ends_the_filling(config, fill, monkeypatch):
    cfg = config('icd', ALL)
    cfg.experiment_name = 'full'
    filling = Filling(cfg)
    calls = iter(range(100))
    write = OutputStore.write
    monkeypatch.setattr(OutputStore, 'write', lambda *arguments: next(calls) < 2 and write(*arguments))
    with pytest.raises(SettingError, match='takes no more outputs, and has 128 of 3,200'):
        filling.run()
    monkeypatch.undo()
    store = OutputStore.open(Path(cfg.model.teacher_cache.path), {})
    monkeypatch.setattr(OutputStore, '_map', _read_only(OutputStore._map))
    with pytest.raises(SettingError, match='is read-only, and has 128 of 3,200'):
        fill(cfg)
    assert store.filled == 128


def _read_only(method: Callable) -> Callable:
    def read_only(self: OutputStore, *arguments: object, **settings: object) -> None:
        method(self, *arguments, **settings)
        self.writable = False

    return read_only


def test_files_of_something_else_stay(config, fill):
    store = fill(config('icd', {'views': 1}))
    before = contents(store)
    with pytest.raises(SettingError, match='views'):
        fill(config('icd', {'views': 2}))
    assert contents(store) == before
    (store.folder / 'checks.bin').write_bytes(b'')
    with pytest.raises(CacheError, match='damaged'):
        fill(config('icd', {'views': 1}))


def test_the_conclusion_is_the_command_that_trains(config, fill):
    cfg = config('icd', {'views': 1})
    store = fill(cfg, part=(0, 2))
    assert conclusion(store, cfg, 'my.py', {}).startswith('32 of 64 outputs are stored.')
    store = fill(cfg)
    options = {'model.teacher_cache.views': 1, 'model.distiller.stages': [1, 'a b']}
    text = conclusion(store, cfg, 'my configs/my.py', options)
    assert text.splitlines()[-1] == (
        "  python tools/train.py 'my configs/my.py' --cfg-options model.teacher_cache.views=1 "
        f"'model.distiller.stages=[1,'\"'\"'ab'\"'\"']' model.teacher_cache.path={store.folder} model.teacher_ckpt=None"
    )
    cfg.model.random_teacher = True
    assert 'teacher_ckpt' not in conclusion(store, cfg, 'my.py', options)


@pytest.mark.parametrize('text', ['0/2', '3/2', '1', '1/', 'a/b', '1/0', '-1/2'])
def test_parts_that_do_not_exist_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match='is not a part such as 1/4'):
        part_of(text)


def test_parts_are_counted_from_one():
    assert part_of('2/4') == (1, 4)


def test_what_a_killed_process_has_stored_stays(config, fill, monkeypatch):
    """Killed in the middle of the fifth batch: the next one computes the rest, and all is as without the kill."""
    add, calls = teacher_caching.TeacherCache.add, iter(range(100))

    def killed(*arguments: object) -> None:
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        add(*arguments)

    cfg = config('icd', ALL)
    monkeypatch.setattr(teacher_caching.TeacherCache, 'add', killed)
    with pytest.raises(ProcessExitedException):
        start_processes(lambda _: fill(cfg), nprocs=1, start_method='fork')
    store = OutputStore.open(Path(cfg.model.teacher_cache.path), {})
    known = contents(store)
    assert len(known) == 4 * BATCH_SIZE
    monkeypatch.undo()
    assert fill(cfg).complete
    assert contents(store).items() >= known.items()


def test_a_run_is_resumed_without_the_teacher_and_with_it_again(config, runner, fill):
    plain = trained(config(**{'train_cfg.max_epochs': 3}), runner)
    fill(config('icd', ALL))

    def resumed(epochs: int, **model: object) -> Config:
        cfg = config('icd', ALL, 'resumed', **{'train_cfg.max_epochs': epochs})
        cfg.model.update(model)
        cfg.default_hooks.sanity_check.resume_changes = 'list'  # of max_epochs
        cfg.resume = epochs > 1
        return cfg

    in_memory = ALL | {'verify': 1, 'path': config('icd', ALL).model.teacher_cache.path}
    trained(resumed(1, teacher_cache=in_memory), runner)
    trained(resumed(2, teacher_ckpt=None), runner)
    log = logged(resumed(2))
    assert 'the teacher is not loaded' in log
    assert "teacher's weights" not in log
    assert other_than_counts(plain, trained(resumed(3, teacher_cache=in_memory), runner)) == []


def test_predictions_of_a_teacher_that_is_not_in_memory_are_refused(config, runner, fill):
    fill(config('icd', ONE))
    cfg = config('icd', ONE, **{'model.teacher_ckpt': None, 'model.predict_also': ['teacher']})
    with pytest.raises(SettingError, match=r"predict_also=\['teacher'\], and the teacher cannot predict: it is not in"):
        runner(cfg)


def test_without_all_outputs_the_teacher_is_needed(config, runner, fill):
    fill(config('icd', ONE), part=(0, 2))
    with pytest.raises(SettingError, match='teacher_ckpt=None must name the trained weights'):
        runner(config('icd', ONE, **{'model.teacher_ckpt': None}))


def test_damaged_outputs_are_computed_again(config, fill):
    store = fill(config('icd', ONE))
    known = contents(store)
    with (store.folder / ROWS).open('r+b') as file:
        file.seek(20 * store.row_bytes + 7)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 8]))
    assert known.keys() - contents(store).keys() == {20}
    fill(config('icd', ONE))
    assert contents(store) == known


def test_a_run_without_the_teacher_ends_when_its_images_change(config, runner, fill):
    class OtherPipeline(Hook):
        def before_train_epoch(self, run: Runner) -> None:
            if run.epoch == 1:
                run.train_dataloader.dataset.pipeline.transforms[1].prob = 0.9

    fill(config('icd', ONE))
    run = runner(config('icd', ONE, **{'model.teacher_ckpt': None}))
    run.register_hook(OtherPipeline())
    with pytest.raises(
        SettingError, match=r'not in memory, .* the training set or its pipeline has changed\. Set model'
    ):
        run.train()
    assert run.epoch == 1
