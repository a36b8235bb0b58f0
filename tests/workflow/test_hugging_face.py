"""From a classifier of Hugging Face to a student of theirs, by their names; nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import run_python
from mmengine.config import Config
from mmpretrain.registry import MODELS

import icd_mmrazor
from icd_mmrazor.checkpoints.reading import read_checkpoint

transformers = pytest.importorskip('transformers')

SMALL = dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8)
# nothing but mmpretrain
USE = """
import sys
import torch
from mmengine.runner import Runner
from mmpretrain import get_model
model = get_model('work/student.py', pretrained='work/student.pth').eval()
torch.save(model(torch.load('images.pt')).detach(), 'logits.pt')
print('ours', 'icd_mmrazor' in sys.modules)
"""


def published(folder: Path, width: int) -> torch.nn.Module:
    """Write a classifier of seven classes as its authors would."""
    torch.manual_seed(width)
    config = transformers.ViTConfig(hidden_size=width, num_labels=7, **SMALL)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.slow
def test_teacher_and_student(
    image_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    """The teacher of other classes gets a new classifier; plain mmpretrain runs the student that is exported."""
    monkeypatch.chdir(tmp_path)
    teacher, _ = published(Path('my teacher'), 24), published(Path('student'), 16)
    data = image_folder({'cat': 8, 'dog': 8})
    student = icd_mmrazor.distill(
        'hf/my teacher', 'hf/student', str(data), recipe='fast', epochs=1, batch_size=8, work_dir='work'
    )
    printed = capfd.readouterr().out
    assert 'hf/my teacher, ' in printed
    assert 'this teacher has a classifier of 7 classes: a linear one of 2 classes is trained first' in printed
    assert f'needs transformers with the config of {str(tmp_path / "student")!r} in addition to mmpretrain' in printed
    assert student.distillation.teacher_accuracy is not None

    # the probe is on the published network, and its config needs nothing else to be built again
    state = read_checkpoint('work/teacher/epoch_30.pth')['state_dict']
    for name, weight in teacher.vit.state_dict().items():
        assert state[f'backbone.model.{name}'].equal(weight), name
    cfg = Config.fromstring(read_checkpoint('work/distilled/epoch_1.pth')['meta']['cfg'], '.py')
    assert MODELS.build(cfg.model.teacher).head.num_classes == 2

    images = torch.randn(4, 3, 32, 32)
    torch.save(images, 'images.pt')
    Path('use.py').write_text(USE)
    used = run_python('use.py', OMP_NUM_THREADS='1')
    assert used.returncode == 0, used.stderr
    assert 'ours False' in used.stdout
    logits = torch.load('logits.pt')
    assert logits.shape == (4, 2)
    with torch.no_grad():
        torch.testing.assert_close(logits, student(images))
        # and so does transformers itself
        config = transformers.ViTConfig.from_pretrained('student', num_labels=2)
        own = transformers.ViTForImageClassification(config).eval()
        own.load_state_dict(torch.load('work/student.pth')['state_dict'])
        torch.testing.assert_close(own(images).logits, logits)
