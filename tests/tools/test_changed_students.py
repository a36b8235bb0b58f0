"""Tools that compare networks, on a student with its teacher's classifier."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import TOOLS, distiller
from mmengine.config import Config

pytest.importorskip('matplotlib')
pytest.importorskip('sklearn')
sys.path.insert(0, str(TOOLS / 'analysis'))
from compare import Run, load_teacher


def test_the_teacher_is_not_changed(demo_config: Callable[..., Config]) -> None:
    cfg = demo_config()
    cfg.model.distiller = distiller('simkd')
    found = load_teacher(Run(cfg, Path('a.pth'), Path('a')), None)
    assert type(found.model).__name__ == 'ImageClassifier'
    stored = torch.load(cfg.model.teacher_ckpt, weights_only=True)['state_dict']
    assert torch.equal(found.layer.weight.cpu(), stored['head.fc.weight'])
