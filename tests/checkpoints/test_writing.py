"""Files are written completely or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from mmengine.fileio import dump, load

from icd_mmrazor.checkpoints.writing import atomic_write, check_writable, remove_abandoned, write_arrays, write_json
from icd_mmrazor.errors import SettingError


def test_the_old_file_stays_until_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / 'a.py'
    atomic_write('x = "ä"\n', file)
    write_json({'a': [1, None]}, tmp_path / 'a.json')
    assert file.read_text(encoding='utf-8') == 'x = "ä"\n'
    assert json.loads((tmp_path / 'a.json').read_text()) == {'a': [1, None]}

    def full(_: int) -> None:
        # what a kill would leave
        assert file.read_text(encoding='utf-8') == 'x = "ä"\n'
        assert (tmp_path / f'.a.py.{os.getpid()}').read_text() == 'x = 2\n'
        raise OSError('no space left')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='no space'):
        atomic_write('x = 2\n', file)
    assert file.read_text(encoding='utf-8') == 'x = "ä"\n'
    assert {found.name for found in tmp_path.iterdir()} == {'a.py', 'a.json'}


def test_arrays_are_written_whole(tmp_path: Path) -> None:
    file = tmp_path / 'new' / 'a.npz'
    write_arrays({'x': np.arange(6).reshape(2, 3)}, file)
    with np.load(file) as found:
        assert found['x'].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [path.name for path in file.parent.iterdir()] == ['a.npz']


@pytest.mark.parametrize('name', ['file.json', 'file.pkl'])
def test_mmengine_writes_files_whole(name: str, tmp_path: Path) -> None:
    file, same = tmp_path / name, tmp_path / 'same'
    file.write_bytes(b'old')
    same.hardlink_to(file)
    dump({'a': 'ä'}, file, backend_args=dict(backend='atomic'))
    assert (load(file), same.read_bytes()) == ({'a': 'ä'}, b'old')


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    left = [f'.{name}.{ended.pid}' for name in ('epoch_3.pth', 'best_a_epoch_2.pth', 'last_checkpoint', 'student.py')]
    # this process writes nothing now: a file with its number is an earlier one's
    left += [f'.student_best.pth.{os.getpid()}', f'.epoch_1.pth.{10**30}']
    kept = [f'.epoch_4.pth.{os.getppid()}', f'.mine.{ended.pid}', 'epoch_3.pth', f'epoch_3.pth.{ended.pid}', '.1.pth.x']
    for name in left + kept:
        (tmp_path / name).touch()
    (tmp_path / f'.folder.pth.{ended.pid}').mkdir()
    assert sorted(file.name for file in remove_abandoned(tmp_path)) == sorted(left)
    assert {file.name for file in tmp_path.iterdir()} == {*kept, f'.folder.pth.{ended.pid}'}


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('mine')
    for path in ('file', 'new', 'new/folder/file'):
        check_writable(tmp_path / path, '--out')
    for path, message in (
        (tmp_path, 'folder'),
        (tmp_path / 'file' / 'below', 'file'),
    ):
        with pytest.raises(SettingError, match=f'--out {path}.*{message}'):
            check_writable(path, '--out')
    check_writable(tmp_path / 'new.json', '--out', ['.npz', '.json'])
    with pytest.raises(SettingError, match=r'--out .*new must end in \.npz or \.json'):
        check_writable(tmp_path / 'new', '--out', ['.npz', '.json'])
    with pytest.raises(SettingError, match=r'--out .*file exists'):
        check_writable(tmp_path / 'file', '--out', new=True)
    check_writable(tmp_path / 'new', '--out', new=True)
    with mock.patch('os.access', return_value=False), pytest.raises(SettingError, match='--out'):
        check_writable(tmp_path / 'new', '--out')
    assert [path.name for path in tmp_path.iterdir()] == ['file']
