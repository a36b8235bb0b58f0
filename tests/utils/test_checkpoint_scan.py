"""Checkpoints are gone through before they are read: what is hostile or damaged costs neither memory nor time."""

import io
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import hostile_files
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from icd_mmrazor.utils import checkpoint_scan
from icd_mmrazor.utils.checkpoint_scan import scan_checkpoint
from icd_mmrazor.utils.checkpoints import read_checkpoint
from icd_mmrazor.utils.errors import CheckpointError

CONTENTS = sorted(hostile_files.contents(Path('trace')))


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {'head.fc.weight': torch.randn(3, 5, generator=generator), 'head.fc.bias': torch.zeros(3)}


@pytest.fixture
def bounded() -> Iterator[None]:
    """Let this process have 4 GB more than it has, and no byte more."""
    with hostile_files.bounded(4 * 2**30):
        yield


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', CONTENTS)
@pytest.mark.usefixtures('bounded')
def test_hostile_contents_are_refused_before_they_are_read(name: str, legacy: bool, tmp_path: Path) -> None:
    trace = tmp_path / 'trace'
    file = hostile_files.write(hostile_files.contents(trace)[name], tmp_path / 'file.pth', legacy)
    with mock.patch.object(torch, 'load') as load, pytest.raises(CheckpointError, match='not a plain weights file'):
        read_checkpoint(file)
    assert not load.called
    assert hostile_files.below(tmp_path) == {file}


@pytest.mark.usefixtures('bounded')
def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = hostile_files.write({'state_dict': weights()}, tmp_path / 'whole.pth')
    assert read_checkpoint(whole)['state_dict'].keys() == weights().keys()
    files = hostile_files.damaged(whole, tmp_path, tmp_path / 'trace')
    there = hostile_files.below(tmp_path)
    for name, file in files.items():
        with pytest.raises(CheckpointError, match='damaged' if file.is_file() else 'no such file'):
            assert not read_checkpoint(file), name
    assert hostile_files.below(tmp_path) == there


@pytest.mark.parametrize('name', sorted(hostile_files.bombs()))
@pytest.mark.usefixtures('bounded')
def test_small_pickles_take_little_memory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_scan, 'MAX_OBJECTS', 10_000)
    operations, message = hostile_files.bombs()[name]
    with (
        hostile_files.pickled(operations, tmp_path / 'file.pth').open('rb') as file,
        pytest.raises(ValueError, match=message),
    ):
        scan_checkpoint(file)


def test_archives_with_two_directories_are_refused(tmp_path: Path) -> None:
    for name, file in hostile_files.with_two_directories(tmp_path).items():
        with pytest.raises(CheckpointError, match='more in the file than one archive'):
            assert not read_checkpoint(file), name


def test_many_histories_and_copies_in_memory_pass() -> None:
    histories = OrderedDict((f'train/loss_{i}', HistoryBuffer([i % 7, 1.5], [1, 1])) for i in range(300))
    copy = io.BytesIO()
    torch.save({'message_hub': {'log_scalars': histories}, 'state_dict': weights()}, copy)
    scan_checkpoint(copy)
    assert len(read_checkpoint(copy)['message_hub']['log_scalars']) == 300


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_what_a_training_writes_passes(legacy: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    content = {
        'state_dict': model.state_dict(),
        'optimizer': optimizer.state_dict(),
        'schedulers': [{'milestones': Counter({3: 1})}],
        'numbers': [np.float64(1.5), np.int64(3), np.bool_(True), np.arange(6, dtype=np.float32).reshape(2, 3)],
        'shared': (nn.Parameter(torch.ones(2)), torch.arange(12).view(3, 4).T, torch.zeros(0, 5), torch.tensor(1)),
        'plain': {'text': 'é', 1: b'bytes', 'long': 2**70, 'none': None, 'size': torch.Size([1]), 'kind': torch.half},
    }
    read = read_checkpoint(hostile_files.write(content, tmp_path / 'file.pth', legacy))
    torch.testing.assert_close(read['state_dict'], content['state_dict'], rtol=0, atol=0)
    torch.testing.assert_close(read['optimizer']['state'], content['optimizer']['state'], rtol=0, atol=0)
    for got, expected in zip(read['shared'], content['shared'], strict=True):
        assert torch.equal(got, expected)
    assert read['schedulers'] == content['schedulers']
    assert read['plain'] == content['plain']
    assert read['numbers'][:3] == content['numbers'][:3]
    assert np.array_equal(read['numbers'][3], content['numbers'][3])


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """Dates and empty space between the members have no checksum, and no meaning."""
    file = hostile_files.write({'meta': {'epoch': 3}, 'state_dict': weights()}, tmp_path / 'file.pth')
    content = file.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.choice(len(content), 150, replace=False):
        changed = bytearray(content)
        changed[place] ^= 1 << generator.integers(8)
        file.write_bytes(changed)
        try:
            read = read_checkpoint(file)
        except CheckpointError:
            refused += 1
            continue
        assert read['meta'] == {'epoch': 3}
        torch.testing.assert_close(read['state_dict'], weights(), rtol=0, atol=0)
    assert refused > 30
    data = content.index(weights()['head.fc.weight'].numpy().tobytes())
    for place in range(data, data + 60, 7):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match='checksum'):
            read_checkpoint(file)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for legacy in (False, True):
        file = hostile_files.write({'state_dict': weights()}, tmp_path / 'file.pth', legacy)
        content = file.read_bytes()
        for end in range(0, len(content), 37):
            file.write_bytes(content[:end])
            with pytest.raises(CheckpointError, match='damaged'):
                read_checkpoint(file)


def test_old_files_without_all_data_are_refused(tmp_path: Path) -> None:
    """torch would leave whatever was in memory in the place of the data."""
    file = hostile_files.write({'state_dict': weights()}, tmp_path / 'file.pth', legacy=True)
    with file.open('rb') as opened:
        scan_checkpoint(opened)
        end = opened.tell()
    content = file.read_bytes()
    keys = content[:end].rindex(b'\x80\x02]')
    file.write_bytes(content[:keys] + b'\x80\x02].' + content[end:])
    with pytest.raises(CheckpointError, match='not the data of all its tensors'):
        read_checkpoint(file)
