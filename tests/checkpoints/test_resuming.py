"""The checkpoint that an interrupted training resumes from."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from icd_mmrazor.checkpoints import resuming
from icd_mmrazor.checkpoints.resuming import (
    checkpoint_to_resume,
    explain_damage,
    latest_valid_checkpoint,
)
from icd_mmrazor.errors import CheckpointError

META = {'epoch': 1, 'iter': 8}
WHOLE = {'meta': META, 'state_dict': {'w': torch.arange(1000.0)}, 'message_hub': {}, 'optimizer': {'state': {}}}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write checkpoints, each newer than the one before, and a pointer."""

    def write(*names: str, damaged: tuple[str, ...] = (), pointer: str | None = None) -> Path:
        for time, name in enumerate(names):
            file = tmp_path / name
            torch.save(WHOLE, file)
            if name in damaged:
                content = bytearray(file.read_bytes())
                # among the weights, where torch itself does not notice it
                content[content.index(torch.tensor([500.0]).numpy().tobytes())] ^= 1
                file.write_bytes(content)
            os.utime(file, (time + 1, time + 1))
        if pointer is not None:
            (tmp_path / 'last_checkpoint').write_text(pointer.replace('HERE', str(tmp_path)))
        return tmp_path

    return write


TWO = ('epoch_1.pth', 'epoch_2.pth')


@pytest.mark.parametrize(
    ('names', 'given', 'found', 'warned'),
    [
        (TWO, dict(pointer='HERE/epoch_2.pth'), 'epoch_2.pth', ''),
        (TWO, dict(pointer='HERE/epoch_1.pth'), 'epoch_1.pth', ''),
        (('mine.pth',), dict(pointer='HERE/mine.pth'), 'mine.pth', ''),
        (TWO, dict(pointer='/moved/epoch_1.pth'), 'epoch_1.pth', '/moved/epoch_1.pth'),
        (TWO, dict(pointer='HERE/epoch_7.pth'), 'epoch_2.pth', 'epoch_7.pth'),
        (TWO, dict(pointer=''), 'epoch_2.pth', 'last_checkpoint'),
        (TWO, dict(pointer='\0' + 'x' * 999), 'epoch_2.pth', 'last_checkpoint'),
        (TWO, {}, 'epoch_2.pth', 'last_checkpoint'),
        (TWO, dict(damaged=TWO[1:], pointer='HERE/epoch_2.pth'), 'epoch_1.pth', 'checkpoint HERE/epoch_2.pth'),
        # of an earlier run; of iterations; not of a training
        (('epoch_9.pth', 'epoch_2.pth'), {}, 'epoch_2.pth', 'last_checkpoint'),
        (('iter_900.pth', 'iter_1000.pth', 'best_a_epoch_3.pth'), {}, 'iter_1000.pth', 'last_checkpoint'),
        ((), {}, None, ''),
        (('best_a_epoch_3.pth', 'student_last.pth'), {}, None, ''),
    ],
)
def test_the_latest_valid_checkpoint(
    names: tuple, given: dict, found: str | None, warned: str, folder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = []
    monkeypatch.setattr(resuming, 'print_log', lambda message, logger, level=logging.INFO: log.append((level, message)))
    path = folder(*names, **given)
    before = {file: file.read_bytes() for file in path.iterdir()}
    latest = checkpoint_to_resume(str(path))
    assert (latest and Path(latest).name) == found
    assert {file: file.read_bytes() for file in path.iterdir()} == before
    if found is None:
        assert [level for level, _ in log] == [logging.INFO]
    elif warned:
        ((level, message),) = log
        assert level == logging.WARNING
        assert latest in message
        assert warned.replace('HERE', str(path)) in message
    else:
        assert log == []


@pytest.mark.parametrize(
    ('names', 'given', 'said'),
    [
        (TWO, dict(damaged=TWO, pointer='HERE/epoch_2.pth'), ['HERE/epoch_2.pth', 'HERE/epoch_1.pth']),
        ((), dict(pointer='HERE/epoch_2.pth'), ['HERE/epoch_2.pth']),
    ],
)
def test_a_training_does_not_silently_start_from_scratch(
    names: tuple, given: dict, said: list[str], folder: Callable
) -> None:
    path = folder(*names, **given)
    with pytest.raises(CheckpointError, match='last_checkpoint') as raised:
        checkpoint_to_resume(str(path))
    for part in said:
        assert part.replace('HERE', str(path)) in str(raised.value)


@pytest.mark.parametrize('missing', ['meta', 'state_dict', 'message_hub', 'optimizer', 'iter'])
def test_a_checkpoint_that_cannot_be_resumed(missing: str, folder: Callable) -> None:
    path = folder('epoch_1.pth')
    checkpoint = {**WHOLE, 'meta': {name: value for name, value in META.items() if name != missing}}
    checkpoint.pop(missing, None)
    torch.save(checkpoint, path / 'epoch_2.pth')
    file, problems = latest_valid_checkpoint(path)
    assert file == path / 'epoch_1.pth'
    assert f'epoch_2.pth holds no {"meta." if missing == "iter" else ""}{missing}' in problems[0]


def test_an_error_names_the_checkpoint_to_take_instead(folder: Callable) -> None:
    path = folder(*TWO, damaged=TWO[1:], pointer='HERE/epoch_2.pth')
    error = CheckpointError('it is damaged')
    assert f'--resume {path}/epoch_1.pth' in str(explain_damage(str(path / 'epoch_2.pth'), error))
    # not damaged: it does not fit the model, or the config
    assert explain_damage(str(path / 'epoch_1.pth'), error) is error
    # nor is this a file
    for name in ('x' * 5000, 'a\0b', 'https://localhost/epoch_1.pth'):
        assert explain_damage(name, error) is error
    (path / 'epoch_1.pth').unlink()
    assert '--resume' not in str(explain_damage(str(path / 'epoch_2.pth'), error))
