"""Files that are written whole or not at all."""

import json
from pathlib import Path

import pytest

from icd_mmrazor.utils.files import write_json, write_whole


def test_the_old_file_stays_until_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / 'a.py'
    write_whole('x = "ä"\n', file)
    write_json({'a': [1, None]}, tmp_path / 'a.json')
    assert file.read_text(encoding='utf-8') == 'x = "ä"\n'
    assert json.loads((tmp_path / 'a.json').read_text()) == {'a': [1, None]}

    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError('no space left')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='no space'):
        write_whole('x = 2\n', file)
    assert file.read_text(encoding='utf-8') == 'x = "ä"\n'
    assert {found.name for found in tmp_path.iterdir()} == {'a.py', 'a.json'}
