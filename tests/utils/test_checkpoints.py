from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from icd_mmrazor.utils import CheckpointError
from icd_mmrazor.utils.checkpoints import load_strictly, read_checkpoint, weights_of, write_checkpoint


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
def test_a_name_that_is_no_name(path: str) -> None:
    with pytest.raises(CheckpointError, match=r'there is no such file|this is no address'):
        read_checkpoint(path)


def test_reads_what_mmengine_writes(tmp_path: Path) -> None:
    hub = MessageHub.get_instance('test_reads_what_mmengine_writes')
    hub.update_scalar('train/loss', 1.5)
    file = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {}, 'message_hub': hub.state_dict()}, file)
    checkpoint = read_checkpoint(file)
    assert checkpoint['message_hub']['log_scalars']['train/loss'].current() == 1.5


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
        with pytest.raises(CheckpointError, match='can run any code'):
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
    with pytest.raises(CheckpointError, match='no such file'):
        read_checkpoint(tmp_path)


def test_only_https_is_downloaded() -> None:
    with pytest.raises(CheckpointError, match='only https'):
        read_checkpoint('http://localhost/file.pth')


def test_weights_of_every_form() -> None:
    plain = {'backbone.weight': torch.zeros(1)}
    distillation = {f'architecture.{name}': w for name, w in plain.items()} | {'teacher.weight': torch.ones(1)}
    parallel = {f'module.{name}': w for name, w in plain.items()}
    for weights in (plain, distillation, parallel):
        for checkpoint in (weights, {'state_dict': weights, 'meta': {}}):
            assert weights_of(checkpoint, 'file') == plain
    with pytest.raises(CheckpointError, match='repdistiller_to_mmpretrain'):
        weights_of({'model': plain, 'epoch': 240}, 'file')
    for nothing in ({}, {'state_dict': {}}, {'state_dict': {'a': 1}}, {'epoch': 3}):
        with pytest.raises(CheckpointError, match='holds no state dict'):
            weights_of(nothing, 'file')


def test_loads_strictly_or_not_at_all() -> None:
    source, target = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(2))
    weights = source.state_dict()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}

    for change, message in (
        ({'2.weight': torch.zeros(5, 4), '2.bias': torch.zeros(5)}, 'trained on 5 classes, the config says 2'),
        ({'0.weight': torch.zeros(4, 9)}, r'0\.weight: \(4, 9\) in the file, \(4, 3\) in the model'),
        ({'extra': torch.zeros(1)}, 'only in the file: extra'),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_strictly(target, {**weights, **change}, 'FILE')
    with pytest.raises(CheckpointError, match=r'FILE does not fit.*\n.*not in the file: 0\.bias'):
        load_strictly(target, {name: w for name, w in weights.items() if name != '0.bias'}, 'FILE')
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name]), name

    load_strictly(target, {name: w for name, w in weights.items() if 'num_batches' not in name}, 'FILE')
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
