"""Numbers of views against plain counting."""

import itertools
import json

import numpy as np
import pytest
from mmcv.transforms import RandomFlip
from mmpretrain.datasets.transforms import RandomCrop

from icd_mmrazor.datasets.pipelines import Pipeline
from icd_mmrazor.datasets.view_numbers import AllViews, FirstView, FixedViews, Views


@pytest.mark.parametrize(
    ('images', 'crops', 'flips', 'text'),
    [
        ((40, 40), (32, 32), (False, True), '9 x 9 crops, flipped or not: 162 views'),
        ((12, 9), (8, 6), (False,), '5 x 4 crops: 20 views'),
        ((9, 12), (8, 12), (True,), '2 x 1 crops, flipped: 2 views'),
        ((8, 8), (8, 8), (False, True), 'flipped or not: 2 views'),
        ((8, 8), (8, 8), (False,), 'not cropped: 1 view'),
    ],
)
def test_each_crop_has_its_number(images: tuple, crops: tuple, flips: tuple, text: str) -> None:
    views = AllViews(images, crops, flips)
    places = [range(side - part + 1) for side, part in zip(images, crops, strict=True)]
    each = list(itertools.product(*places, flips))
    assert str(views) == text
    assert views.number == len(each)
    numbers = views.of(*(np.array(column) for column in zip(*each, strict=True)))
    assert numbers.tolist() == list(range(len(each)))
    assert list(zip(*(part.tolist() for part in views.crop(numbers)), strict=True)) == each
    assert [tuple(map(int, views.crop(number))) for number in range(len(each))] == [tuple(map(int, e)) for e in each]


@pytest.mark.parametrize(
    ('prob', 'flips'), [(None, (False,)), (0.0, (False,)), (0.2, (False, True)), (1.0, (True,))], ids=str
)
def test_the_views_are_those_of_the_pipeline(prob: float | None, flips: tuple) -> None:
    flip = None if prob is None else RandomFlip(prob, direction='horizontal')
    assert AllViews.of_pipeline(Pipeline([], RandomCrop((8, 20)), flip), (12, 13)) == AllViews((12, 13), (8, 13), flips)
    assert AllViews.of_pipeline(Pipeline([], None, flip), (12, 13)) == AllViews((12, 13), (12, 13), flips)


@pytest.mark.parametrize('views', [AllViews((4, 4), (3, 3)), FixedViews(3), FirstView()], ids=str)
def test_rows_are_those_of_a_table_of_images_and_views(views: Views) -> None:
    table = list(itertools.product(range(5), range(views.number)))
    assert [views.row(index, view) for index, view in table] == list(range(len(table)))
    assert views.row(*np.array(table).T).tolist() == list(range(len(table)))


def test_passes_take_turns_with_fixed_views() -> None:
    assert [FixedViews(3).at(number) for number in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert {views.at(number) for number in range(7) for views in (FirstView(), AllViews((4, 4), (3, 3)))} == {0}


def test_other_views_have_another_description() -> None:
    views = [FixedViews(1), FixedViews(2), FixedViews(2, seed=1), FirstView()]
    views += [AllViews((4, 4), crops, flips) for crops in ((3, 3), (3, 4)) for flips in ((False,), (False, True))]
    views += [AllViews((5, 5), (3, 3))]
    assert len({json.dumps(each.description) for each in views}) == len(views)
    assert [str(each) for each in views[:4:1]] == ['1 fixed view', *['2 fixed views'] * 2, 'the first view']
