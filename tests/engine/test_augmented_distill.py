"""Runs with a second, augmented batch, by one command."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import SUBNET, TOOLS, distiller, exit_status, logged, scalars, whole_network
from mmengine.config import Config

from icd_mmrazor import recipes
from icd_mmrazor.configuration.stored import config_of
from icd_mmrazor.export.network import build_network
from icd_mmrazor.export.student import plain_student, student_checkpoint
from icd_mmrazor.models.networks.resolve import name_networks_in_full

PAIR = 'res20_res8_digits'


@pytest.mark.slow
@pytest.mark.parametrize('methods', ['r2kd', 'mixkd', 'r2kd+icd'])
def test_one_command(methods: str, images_file: Path, teacher_file: Callable, tmp_path: Path) -> None:
    assert not exit_status(TOOLS / 'benchmarks' / 'train.py', methods, PAIR, '--dump', 'it.py')
    cfg = Config.fromfile('it.py')
    options = [f'{split}_dataloader.dataset.data_file={images_file}' for split in ('train', 'val', 'test')]
    options += [f'model.teacher_ckpt={teacher_file("res20")}', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2']
    options += ['param_scheduler.milestones=[1]', 'default_hooks.logger.interval=1']
    assert not exit_status(TOOLS / 'train.py', 'it.py', '--work-dir', 'work', '--cfg-options', *options)
    cfg.work_dir = 'work'
    lines = [line for line in scalars(cfg) if 'loss' in line]
    names = {'r2kd': 'loss_r2kd', 'mixkd': 'loss_kd', 'r2kd+icd': 'r2kd.loss_r2kd'}
    assert lines
    for prefix in ('', 'augmented.'):
        assert all(0 < line[f'{prefix}distill.{names[methods]}'] < 100 for line in lines)
        assert all((f'{prefix}distill.icd.loss_icd' in line) == ('icd' in methods) for line in lines)
    for line in lines:
        terms = [value for name, value in line.items() if 'loss' in name and name != 'loss']
        assert line['loss'] == pytest.approx(sum(terms), rel=1e-4)
    report = logged(cfg)
    assert 'makes a second batch for' in report
    assert f'+ augmented.distill.{names[methods]}: as above, of the batch by ' in report
    assert ('MeanLogits(weights=0.7, 0.3) of 0, 1' in report) == ('r2kd' in methods)
    student = torch.load('work/student_last.pth', weights_only=True)
    assert not any('teacher' in name for name in student['state_dict'])


@pytest.mark.slow
def test_a_student_that_mmrazor_pruned(demo_config: Callable, runner: Callable, tmp_path: Path) -> None:
    """It learns from the pruned copy of its teacher, and is exported as it is."""
    cfg = demo_config()
    cfg.model.architecture = dict(type='sub_model', cfg=whole_network(), mode='mutator', fix_subnet=SUBNET)
    cfg.model.distiller = distiller('r2kd')
    cfg.merge_from_dict(recipes.settings_of(['r2kd']))
    name_networks_in_full(cfg.model)
    run = runner(cfg)
    run.train()
    assert run.model.student.backbone.layer1[0].conv1.out_channels == 4
    checkpoint = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=True)
    assert not any(name.startswith('teacher') for name in checkpoint['state_dict'])
    plain = plain_student(config_of(checkpoint, 'epoch_1.pth'))
    model = build_network('the student', plain.model)
    model.load_state_dict(student_checkpoint(checkpoint, plain, 'epoch_1.pth')['state_dict'], strict=True)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), run.model.student.eval()(images))


@pytest.mark.slow
def test_mixtures_instead_of_images(demo_config: Callable, runner: Callable) -> None:
    """What takes no other algorithm: Mixup in the data preprocessor."""
    run = runner(demo_config('kd-mixup_res20_res8_digits', **{'train_dataloader.batch_size': 8}))
    seen = []
    run.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((kwargs['mode'], kwargs['data_samples'])), with_kwargs=True
    )
    run.train()
    # what comes after the data preprocessor: scores of two classes in some batches of the training, not in all
    mixed = [any(sample.gt_score.max() < 1 for sample in samples) for mode, samples in seen if mode == 'loss']
    assert {*mixed} == {True, False}
    assert type(run.model).__name__ == 'FrozenTeacherDistill'
    assert run.model.data_preprocessor.batch_augments.probs == [0.5, 0.5]
    assert torch.isfinite(run.model.student.head.fc.weight).all()
