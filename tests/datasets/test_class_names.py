"""What labels stand for, compared by name."""

import pytest

from icd_mmrazor.datasets.class_names import check_class_names, choice_in, class_names, differing_labels
from icd_mmrazor.errors import DatasetError


class Images:
    """A dataset that names its classes."""

    def __init__(self, *names: str) -> None:
        self.metainfo = {'classes': names}


def test_where_names_are_found() -> None:
    assert class_names({'classes': ['a', 'b']}) == ('a', 'b')
    assert class_names({'epoch': 1, 'dataset_meta': {'classes': ('a', 'b')}}) == ('a', 'b')
    # mmcls 0.x
    assert class_names({'CLASSES': ['a', 'b'], 'mmcls_version': '0.25.0'}) == ('a', 'b')
    for nothing in (None, 'ab', {}, {'classes': 'ab'}, {'classes': None}, {'dataset_meta': ['a']}, {'classes': ()}):
        assert class_names(nothing) is None


@pytest.mark.parametrize(
    ('names', 'others', 'differing'),
    [
        ('0 1 2', '0 1 2', []),
        ('0 1 3 two', '0 1 2 3', [2, 3]),
        ('maple_tree aquarium_fish', 'Maple-Tree AquariumFish', []),
        ('a b', 'a b c', [2]),
        # only between words: these are other numbers
        ('-1 1.5', '1 15', [0, 1]),
        ('猫 狗', '狗 猫', [0, 1]),
        ('+ -', '- +', [0, 1]),
        ('n01440764 n01443537', 'tench goldfish', []),
        ('n01440764 n01443537', 'n01443537 n01440764', [0, 1]),
    ],
)
def test_which_labels_differ(names: str, others: str, differing: list[int]) -> None:
    assert differing_labels(names.split(), others.split()) == differing
    assert differing_labels(others.split(), names.split()) == differing


def test_one_synonym_is_enough() -> None:
    # as mmcls 0.x and mmpretrain spell it
    bears = ('American black bear, black bear, Ursus americanus', 'American black bear, black bear, Ursus americans')
    assert differing_labels(bears[:1], bears[1:]) == []
    assert differing_labels(['tench, Tinca tinca', 'crane'], ['crane', 'tench']) == [0, 1]


def test_differences_are_refused_or_logged() -> None:
    weights = ('model.teacher_ckpt=FILE', ['0', '1', '3', 'two'])
    datasets = [('train_dataloader', Images('0', '1', '2', '3')), ('val_dataloader', object())]
    message = (
        r"model.teacher_ckpt=FILE was trained on other classes than train_dataloader.dataset has: label 2 is '3' in "
        r"the file and '2' in the dataset, label 3 'two' and '3' \(2 of 4 labels differ\)"
    )
    with pytest.raises(DatasetError, match=rf'{message}(.|\n)*default_hooks\.sanity_check\.class_names=list'):
        check_class_names(*weights, datasets)
    with pytest.raises(DatasetError, match='has, in another order: label 0'):
        check_class_names('FILE', ['1', '0'], [('test_dataloader', Images('0', '1'))])
    lines: list[str] = []
    check_class_names(*weights, datasets, 'list', lines.append)
    assert len(lines) == 1
    assert 'label 3' in lines[0]
    # where either side has no names, there is nothing to compare
    check_class_names('FILE', None, datasets)
    check_class_names(*weights, datasets[1:])


def test_the_choice_in_a_config() -> None:
    assert choice_in({}) == choice_in({'default_hooks': {'check_weights': None}}) == 'refuse'
    assert choice_in({'default_hooks': {'sanity_check': {'class_names': 'list'}}}) == 'list'
    # of version 0.1
    assert choice_in({'default_hooks': {'check_weights': {'names': 'list'}}}) == 'list'
