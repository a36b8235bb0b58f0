"""The converter of published checkpoints, as a user calls it."""

import argparse
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA, TOOLS
from mmrazor.registry import MODELS

from icd_mmrazor.checkpoints.reading import read_checkpoint

pytestmark = pytest.mark.stack
SCRIPT = TOOLS / 'model_converters' / 'repdistiller_to_mmpretrain.py'
OURS = {'resnet8': 'res8', 'wrn_16_1': 'wrn16-1'}


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    """Run the tool in this process; return its exit status and what it printed."""

    def run(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, 'argv', [str(SCRIPT), *map(str, args)])
        try:
            runpy.run_path(str(SCRIPT), run_name='__main__')
            status = 0
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.mark.parametrize('name', OURS)
@pytest.mark.parametrize('named', [True, False])
def test_logits_equal_the_published(
    name: str, named: bool, convert: Callable, network: Callable, tmp_path: Path
) -> None:
    source, out = DATA / f'{name}_ckpt_epoch_240.pth', tmp_path / 'new' / 'out.pth'
    status, printed = convert(source, out, *(['--arch', name] if named else []))
    assert (status, name in printed, '72.50 %' in printed) == (0, True, True), printed

    model = MODELS.build(network(OURS[name], 100)).eval()
    weights = torch.load(out, weights_only=True)['state_dict']
    model.load_state_dict(weights, strict=True)
    io = np.load(DATA / f'{name}_io.npz')
    with torch.no_grad():
        feature = model.extract_feat(torch.from_numpy(io['x']))[-1]
        logits = model.head.fc(feature)
    assert np.abs(feature.numpy() - io['feat4']).max() <= 1e-5 * np.abs(io['feat4']).max()
    assert np.abs(logits.numpy() - io['logits']).max() <= 1e-5 * np.abs(io['logits']).max()

    # every tensor of the source is there, unchanged
    published = torch.load(source, weights_only=True)['model']
    assert len(weights) == len(published)
    assert sorted(w.double().sum().item() for w in weights.values()) == sorted(
        w.double().sum().item() for w in published.values()
    )


def test_refuses_what_does_not_fit(convert: Callable, architectures: dict, tmp_path: Path) -> None:
    source, out = DATA / 'resnet8_ckpt_epoch_240.pth', tmp_path / 'out.pth'
    status, printed = convert(source, out, '--arch', 'resnet14')
    assert status == 1
    assert 'not in the file: backbone.layer1.1.conv1.weight' in printed
    status, printed = convert(source, out, '--arch', 'resnet9')
    assert status == 1
    assert '--arch resnet9' in printed
    assert 'resnet110' in printed

    weights = {name: torch.rand(shape) for name, shape in architectures['resnet8']['state_dict'].items()}
    weights['extra.weight'] = torch.zeros(1)
    foreign = tmp_path / 'foreign.pth'
    torch.save({'model': weights}, foreign)
    assert convert(foreign, out)[0] == 1
    torch.save({'state_dict': weights}, foreign)
    status, printed = convert(foreign, out)
    assert status == 1
    assert "'state_dict'" in printed
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [foreign]


def test_takes_old_and_odd_files(convert: Callable, tmp_path: Path) -> None:
    """Without the counters of batch norm that the first torch versions did not write, and with notes beside."""
    published = torch.load(DATA / 'resnet8_ckpt_epoch_240.pth', weights_only=True)['model']
    weights = {name: w for name, w in published.items() if not name.endswith('num_batches_tracked')}
    source, out = tmp_path / 'old.pth', tmp_path / 'out.pth'
    torch.save({'model': weights, 'best_acc': '72.5%', 0: 1}, source)
    assert convert(source, out)[0] == 0
    torch.save({0: weights}, source)
    assert convert(source, tmp_path / 'other.pth')[0] == 1
    status, printed = convert(source, tmp_path)
    assert (status, 'DST' in printed) == (1, True)


def test_runs_no_code(convert: Callable, tmp_path: Path) -> None:
    trace, source = tmp_path / 'trace', tmp_path / 'hostile.pth'

    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (trace,)

    torch.save({'model': Hostile()}, source)
    status, printed = convert(source, tmp_path / 'out.pth')
    assert status == 1
    assert 'not unpickled' in printed
    assert sorted(tmp_path.iterdir()) == [source]


def test_keeps_what_is_there(convert: Callable, tmp_path: Path) -> None:
    out = tmp_path / 'out.pth'
    out.write_text('mine')
    source = DATA / 'resnet8_ckpt_epoch_240.pth'
    status, printed = convert(source, out)
    assert (status, out.read_text()) == (1, 'mine')
    assert '--force' in printed
    assert convert(source, out, '--force')[0] == 0
    assert 'state_dict' in read_checkpoint(out)


def test_takes_the_final_checkpoints_with_their_command_line(convert: Callable, tmp_path: Path) -> None:
    published = torch.load(DATA / 'resnet8_ckpt_epoch_240.pth', weights_only=True)
    source = tmp_path / 'resnet8_last.pth'
    torch.save({'opt': argparse.Namespace(model='resnet8', lr=[1, 2]), 'model': published['model']}, source)
    status, printed = convert(source, tmp_path / 'out.pth')
    assert status == 0, printed
