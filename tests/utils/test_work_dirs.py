"""What is found in a work folder, and what is said of one that does not have it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.utils.work_dirs import find_checkpoint, find_config

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of the work folder and return the folder."""

    def file(name: str, text: str = '') -> Path:
        path = tmp_path / 'run' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path / 'run'

    return file


def test_config_of_latest_training(write: Write) -> None:
    for day, value in (('20260101_000000', 1), ('20260102_000000', 2)):
        write(f'{day}/vis_data/config.py', f'model = dict(depth={value})\n')
        write(f'{day}/vis_data/scalars.json', '{}\n')
    # a later start that trained nothing
    folder = write('20260103_000000/vis_data/config.py', 'model = dict(depth=3)\n')
    write('run.py', 'model = dict(depth=4)\n')
    assert find_config(folder).model.depth == 2


def test_config_without_visualizer(write: Write) -> None:
    write('res8_digits.py', 'model = dict(depth=8)\n')
    folder = write('student.py', 'model = dict(depth=1)\n')
    assert find_config(folder).model.depth == 8


def test_config_is_not_run(write: Write, tmp_path: Path) -> None:
    folder = write('run.py', f'import pathlib\npathlib.Path({str(tmp_path / "ran")!r}).touch()\n')
    with pytest.raises(SettingError, match=r'run\.py'):
        find_config(folder)
    assert not (tmp_path / 'ran').exists()


def test_missing_config(write: Write, tmp_path: Path) -> None:
    folder = write('epoch_1.pth')
    with pytest.raises(SettingError, match=r'it holds epoch_1\.pth\. Expected is .*config\.py.*Name the folder'):
        find_config(folder)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SettingError, match='it holds nothing'):
        find_config(tmp_path / 'empty')
    with pytest.raises(SettingError, match='does not exist'):
        find_config(tmp_path / 'absent')
    with pytest.raises(SettingError, match='is a file'):
        find_config(folder / 'epoch_1.pth')


def test_checkpoint_of_pointer(write: Write, tmp_path: Path) -> None:
    for epoch in (9, 10, 11):
        folder = write(f'epoch_{epoch}.pth')
    assert find_checkpoint(folder).name == 'epoch_11.pth'
    # of the folder before it was moved
    write('last_checkpoint', '/somewhere/else/epoch_10.pth\n')
    assert find_checkpoint(folder) == folder / 'epoch_10.pth'
    # kept elsewhere (out_dir)
    kept = tmp_path / 'kept.pth'
    kept.touch()
    write('last_checkpoint', str(kept))
    assert find_checkpoint(folder) == kept


@pytest.mark.parametrize('pointer', ['', '/', 'epoch_12.pth', 'x' * 5000, 'a\0b'])
def test_checkpoint_of_highest_epoch(write: Write, pointer: str) -> None:
    write('last_checkpoint', pointer)
    for name in ('epoch_2.pth', 'epoch_10.pth', 'epoch_x.pth', 'iter_300.pth'):
        folder = write(name)
    assert find_checkpoint(folder).name == 'epoch_10.pth'


def test_missing_checkpoint(write: Write) -> None:
    folder = write('run.py')
    with pytest.raises(CheckpointError, match=r'has no checkpoint: it holds run\.py'):
        find_checkpoint(folder)
