"""The training recipes: each trains, follows its length, mixes for both networks, and leaves an averaged student."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import CONFIGS, TOOLS, exit_status, logged, whole_network
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.configuration.image_size import set_image_size
from icd_mmrazor.errors import DatasetError, SettingError

RECIPES = sorted(
    file.stem for file in (CONFIGS / '_base_' / 'recipes').glob('*_*.py') if not file.stem.startswith('mixed')
)
NETWORK = {'_scope_': 'mmpretrain', **whole_network()}
NETWORK['head'] = dict(NETWORK['head'], num_classes=2)
MODEL = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=NETWORK,
    teacher=NETWORK,
    random_teacher=True,
    distiller=dict(type='ICDDistiller', kd=dict(tau=4.0)),
)
# what someone writes who inherits a recipe
USER = """
_base_ = ['icd_mmrazor::_base_/recipes/{recipe}.py']
from icd_mmrazor.configuration.image_size import set_image_size

set_image_size(_base_, {size})
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(data_root='{root}/train'))
val_dataloader = test_dataloader = dict(num_workers=0, dataset=dict(data_root='{root}/val'))
train_cfg = dict(max_epochs={epochs})
model = {model}
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write dark and bright images of 24 x 20 pixels, 8 to train on and 4 to validate on."""
    root, generator = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for split, size in (('train', 4), ('val', 2)):
        for i, name in enumerate(('dark', 'bright')):
            (root / split / name).mkdir(parents=True)
            for j in range(size):
                image = generator.integers(90 * i, 90 * i + 80, (20, 24, 3))
                cv2.imwrite(str(root / split / name / f'{j}.png'), image.astype(np.uint8))
    return root


@pytest.fixture
def user_config(folder: Path, tmp_path: Path) -> Callable[..., Config]:
    def write(recipe: str, size: int = 16, epochs: int = 1, **options: object) -> Config:
        file = tmp_path / 'my_config.py'
        file.write_text(USER.format(recipe=recipe, size=size, root=folder, epochs=epochs, model=MODEL))
        cfg = Config.fromfile(file)
        cfg.merge_from_dict({'work_dir': str(tmp_path / 'work'), 'randomness.seed': 0, **options})
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].setdefault('collate_fn', dict(type='default_collate'))
        return cfg

    return write


class Watch(Hook):
    """Note the learning rate and the weights of each iteration."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.states: list[dict[str, torch.Tensor]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.rates.append(runner.optim_wrapper.param_groups[0]['lr'])

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.states.append({name: value.clone() for name, value in runner.model.state_dict().items()})


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES)
def test_a_recipe_trains(recipe: str, user_config: Callable, runner: Callable) -> None:
    run = runner(user_config(recipe, size=16 if 'small' in recipe else 32))
    before = {name: value.clone() for name, value in run.model.architecture.named_parameters()}
    run.train()
    assert run.iter == 2
    still = [name for name, value in run.model.architecture.named_parameters() if torch.equal(value, before[name])]
    assert still == []
    student = torch.load(Path(run.work_dir, 'student_last.pth'), weights_only=True)['state_dict']
    assert all(torch.isfinite(value).all() for value in student.values())
    assert 'Failed to search registry' not in logged(run)


def slow_rate(lr: float, step: int, steps: int) -> float:
    """Up in a twentieth of the steps, from a hundredth of the rate; then down as the cosine from 0 to 180 degrees."""
    up = round(steps / 20)
    if step < up:
        return lr * (0.01 + 0.99 * step / up)
    return lr * np.cos(np.radians(90 * (step - up) / (steps - up))) ** 2


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.parametrize('loop', [dict(max_epochs=1), dict(max_epochs=6), dict(type='IterBasedTrainLoop', max_iters=7)])
def test_the_learning_rate_follows_the_length(loop: dict, user_config: Callable, runner: Callable) -> None:
    cfg = user_config('fast_small')
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.interval = 100
    cfg.train_cfg = loop if 'type' in loop else dict(by_epoch=True, **loop)
    cfg.model = NETWORK
    run, watch = runner(cfg), Watch()
    run.register_hook(watch)
    run.train()
    steps = loop.get('max_iters') or 2 * loop['max_epochs']
    assert watch.rates == pytest.approx([slow_rate(0.1, step, steps) for step in range(steps)])


@pytest.mark.stack
@pytest.mark.slow
def test_the_student_is_the_average(user_config: Callable, runner: Callable) -> None:
    """What is validated, stored and exported; and what the tools test, although the training mixed its images."""
    cfg = user_config('standard_small', epochs=3)
    cfg.dump('config.py')
    run, watch = runner(cfg), Watch()
    run.register_hook(watch)
    run.train()
    average = watch.states[0]
    for step, state in enumerate(watch.states[1:], start=1):
        part = max(2e-4, 20 / (20 + step))
        average = {
            name: part * state[name] + (1 - part) * value if value.is_floating_point() else value
            for name, value in average.items()
        }
    student = torch.load('work/student_last.pth', weights_only=True)['state_dict']
    assert not torch.equal(student['head.fc.weight'], watch.states[-1]['architecture.head.fc.weight'])
    for name, value in student.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[f'architecture.{name}'], rtol=1e-4, atol=1e-6)
    accuracy = run.message_hub.get_scalar('val/accuracy/top1').current()
    for config, checkpoint in (('work/student.py', 'work/student_last.pth'), ('config.py', 'work/epoch_3.pth')):
        arguments = (config, checkpoint, '--out', 'metrics.json', '--work-dir', 'tested')
        assert exit_status(TOOLS / 'test.py', *arguments) is None
        assert load('metrics.json')['accuracy/top1'] == accuracy


@pytest.mark.stack
@pytest.mark.slow
def test_both_networks_see_the_mixed_image(user_config: Callable, runner: Callable) -> None:
    run = runner(user_config('patient_small'))
    seen = {'teacher': [], 'architecture': []}
    for name, images in seen.items():
        network = getattr(run.model, name)
        network.register_forward_pre_hook(lambda _, inputs, images=images: images.append(inputs[0].clone()))
    data = next(iter(run.train_dataloader))
    preprocess = run.model.data_preprocessor
    plain = preprocess({'inputs': data['inputs'], 'data_samples': None}, False)['inputs']
    mixed = preprocess(data, True)
    run.model.train()(**mixed, mode='loss')
    for images in seen.values():
        assert torch.equal(images[-1], mixed['inputs'])
        assert not torch.equal(images[-1], plain)
    scores = torch.stack([sample.gt_score for sample in mixed['data_samples']])
    torch.testing.assert_close(scores.sum(1), torch.ones(4))


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_place_of_the_image_size_is_set(recipe: str) -> None:
    cfg = Config.fromfile(CONFIGS / '_base_' / 'recipes' / f'{recipe}.py')
    set_image_size(cfg, 112)
    sizes = [
        {key: value for key, value in transform.items() if key in ('scale', 'crop_size', 'padding')}
        for split in ('train', 'val', 'test')
        for transform in cfg[f'{split}_dataloader'].dataset.pipeline
    ]
    if recipe.endswith('small'):
        test = [dict(scale=112)]
        train = [dict(scale=112), dict(crop_size=112, padding=14)]
    else:
        test = [dict(scale=128), dict(crop_size=112)]
        train = [dict(scale=112)]
    assert [size for size in sizes if size] == [*train, *test, *test]


def test_sizes_in_wrapped_datasets_and_bad_ones() -> None:
    resize = dict(type='Resize', scale=(32, 32))
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=[resize])))))
    set_image_size(cfg, 20)
    assert cfg.train_dataloader.dataset.dataset.pipeline[0].scale == 20
    with pytest.raises(SettingError, match=r'set_image_size: size=0'):
        set_image_size(cfg, 0)
    cfg.train_dataloader.dataset.dataset.pipeline = [dict(type='PackInputs')]
    with pytest.raises(SettingError, match=r'train_dataloader.*PackInputs.*Resize'):
        set_image_size(cfg, 20)


@pytest.mark.stack
def test_a_folder_that_is_not_set_is_named(runner: Callable, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / '_base_' / 'recipes' / 'fast_small.py')
    cfg.model, cfg.work_dir = NETWORK, str(tmp_path / 'work')
    with pytest.raises(DatasetError, match=r'data/NAME/train.*there is no such folder.*data_root'):
        runner(cfg).train()
