"""A run of version 0.1 loads, is tested and resumes.

``tests/golden/old_run`` holds its checkpoint after the second of four epochs (ICD from ResNet-20 to ResNet-8 on the
digits, with the hooks of version 0.1 in its stored config), the weights of its teacher, and from its last checkpoint
the small weights and the norms of all.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import DATA, TOOLS, exit_status
from mmrazor.registry import MODELS

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly
from icd_mmrazor.configuration.stored import config_of

OLD = DATA / 'old_run'
# as version 0.1 tested it
ACCURACY = 12.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the files where the stored config names them; return the config."""
    pytest.importorskip('sklearn')
    monkeypatch.chdir(tmp_path)
    folder = Path('work_dirs', 'old')
    assert exit_status(TOOLS / 'dataset_converters' / 'digits_to_npz.py', folder / 'digits.npz') is None
    shutil.copy(OLD / 'teacher.pth', folder)
    config = Path('old.py')
    config.write_text(read_checkpoint(OLD / 'epoch_2.pth')['meta']['cfg'])
    return config


@pytest.mark.usefixtures('place')
def test_it_loads_strictly() -> None:
    checkpoint = read_checkpoint(OLD / 'epoch_2.pth')
    cfg = config_of(checkpoint, 'epoch_2.pth')
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    load_strictly(model, checkpoint['state_dict'], 'epoch_2.pth')
    assert {name for name, _ in model.named_parameters()} == {
        name for name, tensor in checkpoint['state_dict'].items() if name in dict(model.named_parameters())
    }


def test_it_is_tested(place: Path) -> None:
    assert exit_status(TOOLS / 'test.py', place, OLD / 'epoch_2.pth', '--out', 'metrics.json') is None
    # an image of the 500 may lie on the border between two classes
    assert json.loads(Path('metrics.json').read_text())['accuracy/top1'] == pytest.approx(ACCURACY, abs=0.21)


@pytest.mark.slow
def test_it_resumes_to_the_same_end(place: Path) -> None:
    arguments = ['--resume', OLD / 'epoch_2.pth', '--work-dir', 'resumed']
    assert exit_status(TOOLS / 'train.py', place, *arguments) is None
    found = read_checkpoint('resumed/epoch_4.pth')['state_dict']
    wanted = read_checkpoint(OLD / 'epoch_4_reference.pth')
    assert found.keys() == wanted['norms'].keys()
    for name, weight in wanted['weights'].items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-4)
    for name, norm in wanted['norms'].items():
        assert found[name].double().norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-4), name
