"""The check of the preparation in real runs on a small problem."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import logged
from mmengine.config import Config
from transfer_data import probe_config, write_stl10, write_student

from icd_mmrazor.errors import SettingError


@pytest.fixture
def coloured(images_file: Path) -> None:
    """Give the small problem's gray images a colour."""
    arrays = dict(np.load(images_file))
    for name in ('train_images', 'test_images'):
        arrays[name] = np.stack([arrays[name], arrays[name] // 2, arrays[name] // 3], axis=-1)
    np.savez(images_file, **arrays)


def with_config(file: str, cfg: Config, **preprocessor: object) -> None:
    """Write into a checkpoint what it was trained with, as mmengine does."""
    cfg = Config(cfg.to_dict())
    cfg.data_preprocessor.update(preprocessor)
    torch.save({**torch.load(file, weights_only=True), 'meta': dict(cfg=cfg.pretty_text)}, file)


@pytest.mark.slow
@pytest.mark.usefixtures('coloured')
def test_another_order_than_the_teachers(demo_config: Callable, runner: Callable) -> None:
    """The teacher gets its own order, and predicts what it does in a run that has this order."""
    cfg = demo_config()
    with_config(cfg.model.teacher_ckpt, cfg, to_rgb=True)
    cfg.model.teacher_preprocessor = 'student'
    with pytest.raises(SettingError, match=r'\(to_rgb=True\), as its checkpoint says, .* Set data_preproces'):
        runner(cfg).train()
    del cfg.model['teacher_preprocessor']
    run = runner(cfg)
    run.train()
    assert 'channels in reverse order' in logged(cfg)
    cfg.data_preprocessor.to_rgb = True
    same = runner(cfg)
    same.train()
    assert 'WARNING' not in logged(cfg).partition('What is being distilled')[2]
    metrics = [each.message_hub.get_info('teacher_metrics') for each in (run, same)]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_gray_images_have_no_order(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config()
    with_config(cfg.model.teacher_ckpt, cfg, to_rgb=True)
    runner(cfg).train()


@pytest.mark.slow
@pytest.mark.usefixtures('coloured')
def test_mmrazors_own_algorithm_is_checked_too(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config()
    cfg.model.type = 'SingleTeacherDistill'
    for network in (cfg.model.teacher, cfg.model.architecture):
        network._scope_ = 'mmpretrain'
    cfg.model.teacher.data_preprocessor = dict(type='ClsDataPreprocessor', to_rgb=True)
    with pytest.raises(SettingError, match=r'\(to_rgb=True\), as its config says'):
        runner(cfg).train()
    del cfg.model.teacher['data_preprocessor']
    cfg.model.architecture.train_cfg = dict(augments=[dict(type='Mixup', alpha=0.8)])
    with pytest.raises(SettingError, match='SingleTeacherDistill: the student asks for Mixup, but the images'):
        runner(cfg).train()
    del cfg.model.architecture['train_cfg']
    cfg.data_preprocessor.update(num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=0.8)))
    cfg.model.architecture.head.loss = dict(type='SeesawLoss', num_classes=10)
    with pytest.raises(SettingError, match=r'SingleTeacherDistill: .*SeesawLoss reads one label .*Mixup'):
        runner(cfg).train()


def test_the_student_of_a_probe(network: Callable, runner: Callable, tmp_path: Path) -> None:
    file = tmp_path / 'student.pth'
    write_student(file, network('res8', 7))
    cfg = probe_config('stl10', write_stl10(tmp_path / 'stl10_binary'), file, tmp_path / 'work')
    with_config(file, cfg, to_rgb=True)
    # the checkpoint's network is not a probe
    cfg.model.student = network('res8', 7)
    with pytest.raises(SettingError, match='LinearProbe: the student was trained on images with channels BGR, as its'):
        runner(cfg).train()


@pytest.mark.usefixtures('coloured')
def test_weights_to_begin_with(demo_config: Callable, runner: Callable, teacher_file: Callable) -> None:
    cfg = demo_config('res8_digits', load_from=teacher_file('res8'))
    with_config(cfg.load_from, cfg, to_rgb=True)
    runner(cfg).train()
    assert 'weights of load_from were trained on images with channels reversed from the dataset' in logged(cfg)
