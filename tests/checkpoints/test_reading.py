"""Checkpoints are read as plain weights, and nothing in them runs."""

import io
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import hostile_files
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import nn

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.writing import write_checkpoint
from icd_mmrazor.errors import CheckpointError


def test_written_is_read(tmp_path: Path) -> None:
    checkpoint = {'meta': {'epoch': 3}, 'state_dict': {'weight': torch.randn(2, 3)}}
    file = tmp_path / 'new' / 'file.pth'
    write_checkpoint(checkpoint, file)
    read = read_checkpoint(file)
    assert read['meta'] == {'epoch': 3}
    assert torch.equal(read['state_dict']['weight'], checkpoint['state_dict']['weight'])
    assert list(file.parent.iterdir()) == [file]


def test_failed_writing_keeps_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / 'file.pth'
    file.write_text('mine')
    with pytest.raises(AttributeError):
        write_checkpoint({'state_dict': lambda: None}, file)
    assert file.read_text() == 'mine'
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize('path', ['~nosuchuser/x.pth', 'https://[/x-0123abcd.pth', 'x' * 5000, 'a\0b'])
def test_invalid_names(path: str) -> None:
    with pytest.raises(CheckpointError, match='checkpoint'):
        read_checkpoint(path)


def test_reads_what_mmengine_writes(tmp_path: Path) -> None:
    hub = MessageHub.get_instance('test_reads_what_mmengine_writes')
    hub.update_scalar('train/loss', 1.5)
    file = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {}, 'message_hub': hub.state_dict()}, file)
    checkpoint = read_checkpoint(file)
    assert checkpoint['message_hub']['log_scalars']['train/loss'].current() == 1.5


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {'head.fc.weight': torch.randn(3, 5, generator=generator), 'head.fc.bias': torch.zeros(3)}


def test_reads_many_histories_from_memory() -> None:
    histories = OrderedDict((f'train/loss_{i}', HistoryBuffer([i % 7, 1.5], [1, 1])) for i in range(300))
    copy = io.BytesIO()
    torch.save({'message_hub': {'log_scalars': histories}, 'state_dict': weights()}, copy)
    read = read_checkpoint(copy)['message_hub']['log_scalars']
    assert [history.mean() for history in read.values()] == [history.mean() for history in histories.values()]


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_reads_what_a_training_writes(legacy: bool, tmp_path: Path) -> None:
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


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_runs_no_code(legacy: bool, tmp_path: Path) -> None:
    trace, file = tmp_path / 'trace', tmp_path / 'file.pth'
    for hostile in (
        Calls(Path.touch, trace),
        Calls(getattr, trace, 'touch'),
        Calls(eval, f'open({str(trace)!r}, "w")'),
    ):
        torch.save({'state_dict': hostile}, file, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match='not unpickled'):
            read_checkpoint(file)
    assert not trace.exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / 'file.pth'
    torch.save({'state_dict': {'weight': torch.randn(100)}}, file)
    whole = file.read_bytes()
    for content in (b'', b'text', whole[:-50], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match='damaged'):
            read_checkpoint(file)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match='holds a list'):
        read_checkpoint(file)
    with pytest.raises(CheckpointError, match='is a folder'):
        read_checkpoint(tmp_path)


def test_only_https_is_downloaded() -> None:
    with pytest.raises(CheckpointError, match='only https'):
        read_checkpoint('http://localhost/file.pth')


@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_reads_safetensors_whatever_the_name(suffix: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip('safetensors.torch')
    file = tmp_path / f'weights.{suffix}'
    safetensors.save_file(weights(), file, metadata={'format': 'pt'})
    for path in (file, io.BytesIO(file.read_bytes())):
        read = read_checkpoint(path)
        assert read.keys() == weights().keys()
        assert all(read[name].equal(value) for name, value in weights().items())


@pytest.mark.parametrize(
    'damage',
    [
        lambda content: content[:-4],
        lambda content: content[:20],
        lambda content: content.replace(b'"F32"', b'"F99"'),
        lambda content: content.replace(b'"data_offsets":[0', b'"data_offsets":[9'),
    ],
)
def test_damaged_safetensors(damage: Any, tmp_path: Path) -> None:
    safetensors = pytest.importorskip('safetensors.torch')
    file = tmp_path / 'weights.safetensors'
    file.write_bytes(damage(safetensors.save(weights())))
    with pytest.raises(CheckpointError, match=r'weights\.safetensors is damaged'):
        read_checkpoint(file)
