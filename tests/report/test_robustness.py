"""Sections of a report on what accuracy does not tell."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from icd_mmrazor.errors import SettingError
from icd_mmrazor.report.reliability import reliability_diagram
from icd_mmrazor.report.robustness import sections

WEIGHTS = b'weights'
HEADER = {'checkpoint': 'x<b>.pth', 'images': 1200, 'total': 10_000, 'sha256': hashlib.sha256(WEIGHTS).hexdigest()}


def written(folder: Path, **found: dict) -> list[Path]:
    (folder / 'robustness.json').write_text(json.dumps({**HEADER, **found}))
    (folder / 'x<b>.pth').write_bytes(WEIGHTS)
    return [folder / 'none', folder]


def test_without_results_nothing_is_shown(tmp_path: Path) -> None:
    assert sections([tmp_path, tmp_path / 'none']) == ''
    assert sections(written(tmp_path)) == ''


def test_columns_are_as_high_as_the_accuracy() -> None:
    drawn = reliability_diagram([(0, None, None), (1, 45.0, 0.0), (30, 90.0, 50.0)], 'a<b')
    columns = [
        [float(value) for value in re.findall(r'(?:y|height)="([\d.]+)"', each)]
        for each in re.findall(r'<rect .*?>', drawn)
    ]
    # 228 points are 100 %
    assert columns == [[240, 0], [126, 114]]
    assert '30 images, confidence 90.0 %, accuracy 50.0 %' in drawn
    assert 'a<b' not in drawn


def test_corruptions_are_averaged_for_each_strength(tmp_path: Path) -> None:
    student = {'clean': 90.0, 'mean': 60.0, 'accuracies': {'fog': [80.0, 60.0], 'gaussian_noise': [70.0, 30.0]}}
    teacher = {'clean': 95.0, 'mean': 80.0, 'accuracies': {'fog': [90.0, 70.0], 'gaussian_noise': [85.0, 75.0]}}
    shown = sections(written(tmp_path, corruptions={'strengths': [1, 2], 'student': student, 'teacher': teacher}))
    assert 'student 90 to 45; teacher 95 to 72.5' in shown
    assert '<td>gaussian noise</td><td>70.00</td><td>30.00</td><td><b>50.00</b></td><td>80.00</td>' in shown
    assert 'x&lt;b&gt;.pth on 1,200 of 10,000 test images' in shown
    alone = sections(written(tmp_path, corruptions={'strengths': [1, 2], 'student': student}))
    assert '<td><b>50.00</b></td></tr>' in alone


def test_attacks_that_do_not_fool_the_teacher_cannot_be_counted(tmp_path: Path) -> None:
    found = {'images': 5, 'eps': 0.031, 'step': 0.003, 'steps': 20, 'teacher': {'clean': 100.0, 'robust': 100.0}}
    assert 'No attack' in sections(written(tmp_path, transfer={**found, 'counted': 0, 'rate': None}))
    assert '<b>50.00 %</b>' in sections(written(tmp_path, transfer={**found, 'counted': 2, 'rate': 50.0}))


def test_results_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    folders = written(tmp_path)
    (tmp_path / 'x<b>.pth').write_bytes(b'others')
    with pytest.raises(SettingError, match=r'of a x<b>\.pth that the folder no longer has'):
        sections(folders)
    (tmp_path / 'x<b>.pth').unlink()
    with pytest.raises(SettingError, match='no longer has'):
        sections(folders)
    written(tmp_path, sha256='')
    with pytest.raises(SettingError, match='no longer has'):
        sections(folders)


@pytest.mark.parametrize('text', ['{', '[]', '{"images": 3}'])
def test_other_files_of_this_name_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / 'robustness.json').write_text(text)
    with pytest.raises(SettingError, match=r'robustness\.json'):
        sections([tmp_path])
