"""The README's examples are run, not believed."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONFIGS, ROOT
from mmengine.config import Config
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS

from icd_mmrazor import recipes

pytestmark = pytest.mark.stack
README = (ROOT / 'README.md').read_text()
EXAMPLES = [code for code in re.findall(r'```python\n(.*?)```', README, re.DOTALL) if code.startswith('_base_')]
DISTILLATIONS = [code for code in EXAMPLES if 'teacher_ckpt' in code]

# as mmpretrain's users write it, without scopes
MY_STUDENT = """
default_scope = 'mmpretrain'
data_preprocessor = dict(mean=[129.3, 124.1, 112.4], std=[68.2, 65.4, 70.4])
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=512))
"""


def test_there_are_examples_and_no_placeholders() -> None:
    assert (len(EXAMPLES), len(DISTILLATIONS)) == (5, 3)
    assert not re.findall(r'\b[A-Z]+_TABLE\b|TODO|THIS_REPOSITORY', README)


@pytest.mark.slow
@pytest.mark.parametrize('example', DISTILLATIONS, ids=['inherit', 'student', 'mmrazor'])
def test_distillation_trains_a_step(example: str, teacher_file: Callable, tmp_path: Path) -> None:
    (tmp_path / 'my_student.py').write_text(MY_STUDENT)
    (tmp_path / 'example.py').write_text(example)
    model = Config.fromfile(tmp_path / 'example.py').model
    if 'cfg_path' in model.teacher:
        model.teacher_ckpt = str(tmp_path / 'resnet34.pth')
        torch.save({'state_dict': MODELS.build(model.teacher).state_dict()}, model.teacher_ckpt)
    else:
        model.teacher_ckpt = teacher_file('res32x4', 100)
    images, samples = torch.randn(4, 3, 32, 32), [DataSample().set_gt_label(i) for i in range(4)]
    losses = MODELS.build(model)(images, samples, mode='loss')
    assert {'student.loss', 'distill.loss_icd'} <= set(losses)
    assert ('loss_kd' in example or 'kd=' in example) == ('distill.loss_kd' in losses)


@pytest.mark.slow
def test_images_of_ones_own_are_trained_on(runner: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = (code for code in EXAMPLES if 'pathmnist' in code)
    monkeypatch.chdir(tmp_path)
    Path('example.py').write_text(example)
    Path('data').mkdir()
    arrays = {f'{split}_images': np.zeros((18, 28, 28, 3), np.uint8) for split in ('train', 'test')}
    arrays |= {f'{split}_labels': np.arange(18)[:, None] % 9 for split in ('train', 'test')}
    np.savez('data/pathmnist.npz', **arrays)
    cfg = Config.fromfile('example.py')
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'work_dir': 'work'})
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].num_workers = 0
    runner(cfg).train()
    assert Path('work/epoch_1.pth').is_file()


def test_a_method_and_a_pair_in_a_config_of_ones_own(tmp_path: Path) -> None:
    (example,) = (code for code in EXAMPLES if 'methods/crd.py' in code)
    (tmp_path / 'example.py').write_text(example)
    model = Config.fromfile(tmp_path / 'example.py').model
    model.update(teacher_ckpt=None, random_teacher=True)
    algorithm = MODELS.build(model)
    composed = recipes.compose('vgg13_vgg8_cifar100', ['crd'])
    composed.model.update(teacher_ckpt=None, random_teacher=True)
    assert repr(algorithm) == repr(MODELS.build(composed.model))
    algorithm.distiller.distill_losses['loss_crd'].set_dataset(torch.arange(40) % 10)
    samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i) for i in range(4)]
    assert algorithm(torch.randn(4, 3, 32, 32), samples, mode='loss')['distill.loss_crd'].isfinite()


def test_a_method_of_ones_own(teacher_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the two files where the README says, in a copy of the base configs, and mix the method with ICD."""
    loss, method = re.findall(r'```python\n# (?:icd_mmrazor|configs)/\S*centroid.*?\n(.*?)```', README, re.DOTALL)
    exec(loss, {})
    shutil.copytree(CONFIGS, tmp_path / 'configs')
    (tmp_path / 'configs' / '_base_' / 'methods' / 'centroid.py').write_text(method)
    monkeypatch.setattr(recipes, 'BASE', tmp_path / 'configs' / '_base_')
    assert 'centroid' in recipes.method_names()
    model = recipes.compose('res56_res20_cifar100', ['centroid', 'icd']).model
    model.teacher_ckpt = teacher_file('res56', 100)
    images, samples = torch.randn(4, 3, 32, 32), [DataSample().set_gt_label(i) for i in range(4)]
    losses = MODELS.build(model)(images, samples, mode='loss')
    assert {'student.loss', 'distill.icd.loss_icd', 'distill.centroid.loss_centroid'} <= set(losses)


def test_files_it_names_exist() -> None:
    for name in re.findall(r'(?:tools|configs|requirements)/[\w./-]+\.(?:py|sh|txt)', README):
        # that of a method of one's own
        assert 'centroid' in name or (ROOT / name).is_file(), name
    for name in re.findall(r'`((?:vanilla|icd)/res\w+\.py)`', README):
        assert (CONFIGS / name).is_file(), name
