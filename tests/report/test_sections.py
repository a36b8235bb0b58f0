"""Drawings and sections of a report on numbers that one can count by hand."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from icd_mmrazor.report import sections
from icd_mmrazor.report.drawing import Line, confusion_table, line_chart, ticks
from icd_mmrazor.report.predictions import Cost, Predictions


def scores(classes: list[int], count: int, confidence: float = 0.9) -> np.ndarray:
    return np.eye(count)[classes] * confidence


def predictions(labels: list[int] | None, student: list[int], teacher: list[int] | None, count: int) -> Predictions:
    return Predictions(
        images=list(range(len(student))),
        total=len(student),
        classes=[f'class {i}' for i in range(count)],
        labels=None if labels is None else np.array(labels),
        student=scores(student, count),
        teacher=None if teacher is None else scores(teacher, count),
        shape=(3, 8, 8),
        thumbnail=lambda place: b'PNG',
    )


def test_the_cost_of_a_changed_student_is_marked() -> None:
    run = SimpleNamespace(seconds=None)
    cost = dict(student=Cost(1500, 2_000_000, "changed by X: the teacher's"), teacher=Cost(3000, 4_000_000))
    shown = sections.costs(run, cost, (3, 8, 8), {})
    assert '<td>student, changed by X: the teacher&#x27;s</td><td>1,500</td>' in shown
    assert '<td>teacher</td><td>3,000</td>' in shown


@pytest.mark.parametrize(('low', 'high'), [(0, 1), (0.02, 7.3), (-3, 5), (98.2, 98.4), (5, 5), (0, 0), (1e-7, 3e-7)])
def test_ticks_enclose_what_is_drawn(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8
    np.testing.assert_allclose(np.diff(found), np.diff(found)[0])


def test_whole_ticks_lie_within() -> None:
    assert ticks(1, 8, whole=True) == [2, 4, 6, 8]
    assert ticks(1, 1, whole=True) == [1]
    assert ticks(13, 13, whole=True) == [13]  # no round number is in this range
    assert all(1 <= tick <= 300 and tick == int(tick) for tick in ticks(1, 300, whole=True))


def test_lines_have_gaps_where_numbers_are_not_finite() -> None:
    drawn = line_chart([Line('a<b', [1, 2, 3, 4], [1.0, float('nan'), 3.0, 4.0])], 'epoch', 'loss')
    (path,) = re.findall(r'<path class="line c0" stroke-dasharray="" d="(M[\d.]+ [^H"]*)"', drawn)
    assert path.count('M') == 2
    assert path.count('L') == 1
    assert 'a&lt;b' in drawn
    assert 'a<b' not in drawn
    assert drawn.count('<circle') == 3
    assert line_chart([Line('a', [1], [float('nan')])], 'epoch', 'loss') == ''
    assert line_chart([Line('level', (), (3.0,), level=True)], 'epoch', 'loss') == ''


def test_points_are_where_they_belong() -> None:
    drawn = line_chart([Line('a', [0, 10], [0.0, 100.0])], 'epoch', 'accuracy')
    (path,) = re.findall(r'd="(M[^H"]*L[^"]*)"', drawn)
    assert path == 'M52.0 240.0L460.0 12.0'


def test_matrix_of_few_classes() -> None:
    counts = np.array([[2, 1], [0, 3]])
    drawn = confusion_table(counts, ['a', 'b'], 'label', 'student')
    cells = re.findall(r'<td class="(\w+)" style="--part:([\d.]+)">(\d*)</td>', drawn)
    assert cells == [('right', '0.667', '2'), ('wrong', '0.333', '1'), ('wrong', '0.000', ''), ('right', '1.000', '3')]


def test_pairs_of_many_classes() -> None:
    labels = [3, 3, 3, 7, 7, *range(25)]
    student = [4, 4, 3, 9, 7, *range(25)]
    teacher = [4, 3, 3, 7, 7, *range(25)]
    drawn = sections.confusion(predictions(labels, student, teacher, 25))
    rows = re.findall(r'<td>(class \d+)</td><td>(class \d+)</td><td>(\d+ of \d+)</td><td>(\d+)</td>', drawn)
    assert rows == [('class 3', 'class 4', '2 of 4', '1'), ('class 7', 'class 9', '1 of 3', '0')]
    assert 'The 20 of 25 classes farthest behind the teacher' in drawn
    first = re.search(
        r'<tbody><tr><td>(class \d+)</td><td>(\d+)</td>(.*?)</tr>', drawn[drawn.index('Accuracy of each') :]
    )
    assert first[1] == 'class 7'
    assert first[2] == '3'
    assert '66.7' in first[3]
    assert '\N{MINUS SIGN}33.3' in first[3]
    perfect = predictions(labels, labels, labels, 25)
    assert 'confuses no classes' in sections.confusion(perfect)


def test_disagreements_are_the_most_confident_first() -> None:
    found = predictions([0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 2, 1], 3)
    found.teacher[2, 2] = 0.95
    assert found.disagreements(24) == [2, 1]
    assert found.disagreements(1) == [2]
    assert found.mistakes(24) == [1, 2, 3]
    shown = sections.examples(found)
    assert 'They disagree on 2 of 4 images.' in shown
    assert 'label: <b>class 2</b>' in shown
    assert 'teacher: <b>class 2 (95 %)</b>' in shown


def test_images_without_labels_are_compared_with_the_teacher() -> None:
    found = predictions(None, [0, 1, 1], [0, 1, 2], 3)
    assert 'rows: the teacher&#x27;s class (the images have no labels)' in sections.confusion(found)
    assert 'label:' not in sections.examples(found)
    nothing = predictions(None, [0, 1, 1], None, 3)
    assert 'nothing to count' in sections.confusion(nothing)
    assert '<img' not in sections.examples(nothing)


@pytest.mark.parametrize(('seconds', 'text'), [(0.4, '0:00:00'), (3725, '1:02:05'), (90061, '1 day, 1:01:01')])
def test_duration(seconds: float, text: str) -> None:
    assert sections.duration(seconds) == text
