"""The README's examples are run, not believed."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, ROOT
from mmengine.config import Config
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS

EXAMPLES = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
CONFIG_EXAMPLES = [example for example in EXAMPLES if example.startswith('_base_')]


def test_there_are_examples() -> None:
    assert len(CONFIG_EXAMPLES) == 3


@pytest.mark.parametrize('example', CONFIG_EXAMPLES, ids=['inherit', 'student', 'mmrazor'])
def test_config_trains_a_step(example: str, teacher_file: Callable, tmp_path: Path) -> None:
    (tmp_path / 'my_student.py').write_text((CONFIGS / '_base_/models/res8.py').read_text().replace('res8', 'model'))
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


def test_files_it_names_exist() -> None:
    text = (ROOT / 'README.md').read_text()
    for name in re.findall(r'(?:tools|configs|requirements)/[\w./-]+\.(?:py|sh|txt)', text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r'`((?:vanilla|icd)/res\w+\.py)`', text):
        assert (CONFIGS / name).is_file(), name
