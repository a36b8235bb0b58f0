"""The examples of the README and of the pages on your own configs and your own loop run."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONFIGS, ROOT
from mmengine.config import Config
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.models import losses

pytestmark = pytest.mark.stack
README = (ROOT / 'README.md').read_text()
PAGE = (ROOT / 'docs' / 'howto' / 'own_configs.md').read_text()


def python_blocks(text: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


EXAMPLES = [code for code in python_blocks(PAGE) if code.startswith('_base_')]
DISTILLATIONS = [code for code in python_blocks(README) + EXAMPLES if 'teacher_ckpt' in code]

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


class Network(nn.Module):
    """Return logits and pooled features, as the README assumes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(48, width), nn.ReLU())
        self.classifier = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.classifier(features), features


def test_the_loop_in_the_readme_trains() -> None:
    (loop,) = (code for code in python_blocks(README) if 'ICDLoss(' in code)
    losses = []
    for steps in (1, 60):
        torch.manual_seed(0)
        student, teacher = Network(64), Network(256).eval()
        before = [parameter.detach().clone() for parameter in student.parameters()]
        frozen = [parameter.detach().clone() for parameter in teacher.parameters()]
        scope = dict(student=student, teacher=teacher, loader=[(torch.randn(8, 3, 4, 4), torch.arange(8))] * steps)
        exec(loop, scope)
        losses.append(scope['loss'].item())
    assert losses[1] < 0.7 * losses[0]
    assert all((old != new).any() for old, new in zip(before, student.parameters(), strict=True))
    assert all(torch.equal(old, new) for old, new in zip(frozen, teacher.parameters(), strict=True))
    assert scope['icd'].log_tau.grad is not None


def test_the_losses_in_an_own_loop() -> None:
    page = (ROOT / 'docs' / 'howto' / 'own_loop.md').read_text()
    (code,) = python_blocks(page)
    scope = {f'{who}_logits': torch.randn(4, 10, requires_grad=who == 's') for who in 'st'}
    scope |= dict(s_feature=torch.randn(4, 8), t_feature=torch.randn(4, 16))
    scope |= dict(s_map=torch.randn(4, 8, 4, 4), t_map=torch.randn(4, 16, 8, 8))
    exec(code, scope)
    assert scope['loss'].isfinite()
    scope['loss'].backward()
    # the table says which losses need features of one width
    rows = re.findall(r'^\| (`\w+Loss`.*?) \| .* \| (.*) \|$', page, re.MULTILINE)
    assert len(rows) > 5
    for names, widths in rows:
        for name in re.findall(r'`(\w+)`', names):
            assert (getattr(losses, name).same_width_by is None) == widths.startswith(('may', 'must')), name


@pytest.mark.slow
@pytest.mark.parametrize('example', DISTILLATIONS, ids=['readme', 'inherit', 'student', 'mmrazor'])
def test_distillation_trains_a_step(example: str, teacher_file: Callable, tmp_path: Path) -> None:
    Path('my_student.py').write_text(MY_STUDENT)
    Path('my_teacher.py').write_text(MY_STUDENT)
    (tmp_path / 'example.py').write_text(example)
    model = Config.fromfile(tmp_path / 'example.py').model
    if 'my_teacher.py' in model.teacher:
        model.teacher_ckpt = 'my_teacher.pth'
        teacher = MODELS.build({'_scope_': 'mmpretrain', **Config.fromfile('my_teacher.py').model})
        torch.save({'state_dict': teacher.state_dict()}, model.teacher_ckpt)
    elif 'cfg_path' in model.teacher:
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


def test_files_it_names_exist() -> None:
    for name in re.findall(r'`((?:vanilla|icd)/res\w+\.py)`', (ROOT / 'docs' / 'howto' / 'cifar100.md').read_text()):
        assert (CONFIGS / name).is_file(), name
