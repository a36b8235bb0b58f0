"""Trainings with a cache of the teacher's outputs: the same weights, bit for bit, with less of the teacher."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cached_trainings import ALL, counts, other_than_counts, short_training, trained
from helpers import TORCH_VERSION, logged
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.errors import CacheError, SettingError
from icd_mmrazor.models.teacher_cache.store import OutputStore

pytestmark = pytest.mark.slow

# 5 x 5 crops, flipped or not
VIEWS = 50


@pytest.fixture
def config(demo_config: Callable, tmp_path: Path) -> Callable[..., Config]:
    """Return the config of a short training, see :func:`short_training`."""
    return partial(short_training, demo_config, tmp_path)


@pytest.mark.parametrize('methods', ['icd+kd', 'crd', 'rkd'])
def test_a_cached_run_is_the_same_bit_for_bit_and_the_second_needs_no_teacher(methods, config, runner):
    plain = trained(config(methods), runner)
    first = config(methods, ALL, 'first')
    assert other_than_counts(plain, trained(first, runner)) == []
    second = config(methods, ALL, 'second')
    assert other_than_counts(plain, trained(second, runner)) == []
    assert counts(first)[0] == counts(second)[0] == 128
    assert counts(second)[1] == 0
    assert 'The teacher was run on 0 images for 128 outputs (0.0%).' in logged(second)


def test_other_methods_seeds_and_students_share_what_is_stored(config, runner):
    trained(config('icd', ALL, 'first'), runner)
    # the same crops: they follow from the seed
    other = config('kd', ALL, 'second', **{'model.architecture.backbone.depth': 14})
    trained(other, runner)
    assert counts(other) == (128, 0)
    seeded = config('icd', ALL, 'third', **{'randomness.seed': 1})
    store = OutputStore.open(Path(seeded.model.teacher_cache.path), {})
    before = store.filled
    trained(seeded, runner)
    # of the views of another seed, some were there
    assert before < store.filled < before + 128


@pytest.mark.parametrize('precision', ['bf16', 'bf16-true'])
def test_half_precision_is_the_same_bit_for_bit(precision, config, runner):
    options = {'model.teacher_precision': precision, 'optim_wrapper.type': 'AutocastOptimWrapper'}
    plain = trained(config('icd+kd', **options), runner)
    for work_dir in ('first', 'second'):
        cfg = config('icd+kd', ALL, work_dir, **options)
        assert other_than_counts(plain, trained(cfg, runner)) == []
    assert counts(cfg)[1] == 0
    about = OutputStore.about(Path(cfg.model.teacher_cache.path))
    assert {dtype for _, dtype in about['facts']['outputs']['fields'].values()} <= {'bfloat16', 'float32'}


@pytest.mark.skipif(TORCH_VERSION < (2, 14), reason='older versions do not trace recorders into one graph')
def test_the_student_is_one_graph_with_stored_outputs(config, runner):
    # graphs of other tests count towards the limit of one function
    torch.compiler.reset()
    options = {'train_cfg.max_epochs': 1}
    # it fills the cache
    plain = trained(config('icd+kd', ALL, 'first', **options), runner)
    options['model.torch_compile'] = dict(backend='aot_eager', fullgraph=True)
    cfg = config('icd+kd', ALL, 'second', **options)
    compiled = trained(cfg, runner)
    assert 'torch_compile' not in logged(cfg).partition('What is being distilled')[2]
    for name, value in torch.load(plain, weights_only=False)['state_dict'].items():
        torch.testing.assert_close(torch.load(compiled, weights_only=False)['state_dict'][name], value)
    assert counts(cfg) == (64, 0)


class KilledError(BaseException):
    """The run was ended from outside."""


class Kill(Hook):
    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 4:
            raise KilledError


def test_a_resumed_run_is_the_same_and_keeps_count(config, runner):
    plain = trained(config(), runner)
    cfg = config(cache=ALL, work_dir='cached')
    run = runner(cfg)
    run.register_hook(Kill())
    with pytest.raises(KilledError):
        run.train()
    cfg = config(cache=ALL, work_dir='cached')
    cfg.resume = True
    assert other_than_counts(plain, trained(cfg, runner)) == []
    assert counts(cfg)[0] == 128


def test_an_uncached_run_is_resumed_with_a_cache(config, runner):
    plain = trained(config(), runner)
    run = runner(config(work_dir='other'))
    run.register_hook(Kill())
    with pytest.raises(KilledError):
        run.train()
    cfg = config(cache={'views': 'all'}, work_dir='other')
    cfg.resume = True
    assert other_than_counts(plain, trained(cfg, runner)) == []


def test_what_is_stored_is_verified(config, runner):
    cfg = config(cache={'views': 'all', 'verify': 2})
    trained(cfg, runner)
    again = config(cache={'views': 'all', 'verify': 2}, work_dir='again')
    trained(again, runner)
    # the first, third and fifth of six batches
    assert counts(again) == (128, 24 + 16 + 24)
    store = OutputStore.open(Path(cfg.model.teacher_cache.path), {})
    rows = np.flatnonzero(store.read(np.arange(store.rows))[1])
    values, _ = store.read(rows)
    store.write(rows, np.roll(values, 1, axis=0))
    with pytest.raises(CacheError, match=r'the stored pooled of the teacher differ.*\n?.*Delete this folder'):
        trained(config(cache={'views': 'all', 'verify': 2}, work_dir='third'), runner)


def _other_teacher(cfg: Config) -> None:
    checkpoint = torch.load(cfg.model.teacher_ckpt)
    checkpoint['state_dict']['head.fc.bias'][3] += 0.01
    cfg.model.teacher_ckpt = cfg.model.teacher_ckpt.replace('.pth', '_other.pth')
    torch.save(checkpoint, cfg.model.teacher_ckpt)


def _other_images(cfg: Config) -> None:
    file = Path(cfg.train_dataloader.dataset.data_file)
    arrays = dict(np.load(file))
    arrays['train_images'] = arrays['train_images'][::-1]
    cfg.train_dataloader.dataset.data_file = str(file.with_name('other.npz'))
    np.savez(cfg.train_dataloader.dataset.data_file, **arrays)


@pytest.mark.parametrize(
    ('change', 'shown'),
    [
        (_other_teacher, 'teacher.weights is'),
        (_other_images, 'images.pixels is'),
        (lambda cfg: cfg.train_dataloader.dataset.pipeline[0].update(padding=1), 'views'),
        (
            lambda cfg: cfg.train_dataloader.dataset.pipeline[0].update(padding_mode='reflect'),
            "'...padding_mode=reflect)' here",
        ),
        (lambda cfg: cfg.train_dataloader.dataset.update(indices=40), 'images.number is 64 there, 40 here'),
        (lambda cfg: cfg.model.update(teacher_precision='bf16'), 'teacher.precision'),
        (
            lambda cfg: cfg.data_preprocessor.update(mean=[77.0] * 3),
            'images.preprocessor.mean is [78.0, 78.0, 78.0] there, [77.0, 77.0, 77.0] here',
        ),
        (lambda cfg: cfg.model.teacher_cache.update(views=1), 'views'),
        (lambda cfg: cfg.model.teacher_cache.update(dtype='bfloat16'), 'outputs.fields.pooled'),
    ],
    ids=['teacher', 'images', 'padding', 'pipeline', 'number', 'precision', 'preprocessor', 'views', 'dtype'],
)
def test_files_of_something_else_are_refused_before_training(change, shown, config, runner):
    trained(config(cache={'views': 'all'}, **{'train_cfg.max_epochs': 1}), runner)
    cfg = config(cache={'views': 'all'}, work_dir='other')
    change(cfg)
    with pytest.raises(SettingError) as error:
        trained(cfg, runner)
    assert shown in str(error.value)
    assert 'model.teacher_cache.path' in str(error.value)
    assert not Path(cfg.work_dir, 'epoch_1.pth').exists()


def test_a_method_that_compares_maps_trains_without_and_says_why(config, runner):
    plain = trained(config('at'), runner)
    cfg = config('at', {'views': 'all'}, 'cached')
    assert other_than_counts(plain, trained(cfg, runner)) == []
    assert 'the teacher cache is not used: the method compares map' in logged(cfg)
    assert not Path(cfg.model.teacher_cache.path).exists()


def test_without_the_hook_that_opens_it_the_first_batch_says_so(config, runner):
    cfg = config(cache={'views': 'all'})
    cfg.default_hooks.pop('sample_memory')
    with pytest.raises(SettingError, match=r"teacher_cache is set, .*sample_memory=dict\(type='SampleMemoryHook'\)"):
        trained(cfg, runner)


def test_the_default_folder_is_in_the_work_folder(config, runner):
    cfg = config(cache={'views': 'all', 'path': None})
    trained(cfg, runner)
    assert OutputStore.about(Path(cfg.work_dir, 'teacher_cache'))['rows'] == 64 * VIEWS


def test_a_limit_of_teacher_calls_is_kept(config, runner):
    cfg = config(cache={'views': 'first', 'max_teacher_calls': 64})
    trained(cfg, runner)
    assert counts(cfg) == (128, 64)
    cfg = config(cache={'views': 'first', 'max_teacher_calls': 40, 'path': None}, work_dir='fewer')
    with pytest.raises(SettingError, match=r'max_teacher_calls=40: 24 were made, and this batch needs 24 more'):
        trained(cfg, runner)


def test_fixed_views_are_those_of_their_key_whatever_the_seed(config, runner):
    cfg = config(cache={'views': 1, 'verify': 0})
    trained(cfg, runner)
    assert counts(cfg) == (128, 64)
    other = config(cache={'views': 1, 'verify': 0}, work_dir='other', **{'randomness.seed': 5})
    trained(other, runner)
    assert counts(other) == (128, 0)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'views': 0}, r"teacher_cache.views=0 must be 'all', the number of fixed views of an image, or 'first'"),
        ({'view': 1}, r"teacher_cache has no setting 'view'. Did you mean views\?"),
        ({'max_size': '16 apples'}, r"max_size='16 apples' must be a size, such as '16GB'"),
        ({'dtype': 'int8'}, r"teacher_cache.dtype='int8' must be one of 'float32'"),
        ({'verify': -1}, r'teacher_cache.verify=-1 must be'),
        ({'seed': 'x'}, r"teacher_cache.seed='x' must be an integer"),
        ({'max_size': '100KB'}, r'max_size is 100 KB'),
    ],
)
def test_settings_that_are_wrong_are_refused(settings, message, config, runner):
    with pytest.raises(SettingError, match=message):
        runner(config(cache=settings)).train()
