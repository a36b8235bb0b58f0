"""A stand-in for a teacher whose outputs are all stored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmpretrain.models import ImageClassifier, LinearClsHead, MultiLabelLinearClsHead
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from icd_mmrazor.datasets.randomness import undrawn
from icd_mmrazor.models.networks.headless import as_teacher
from icd_mmrazor.models.teacher_cache.cache import TeacherCache
from icd_mmrazor.models.teacher_cache.draws import advance
from icd_mmrazor.models.teacher_cache.layout import RowLayout
from icd_mmrazor.models.teacher_cache.store import OutputStore


class StoredTeacher(ImageClassifier):
    """A network with the shapes of a teacher's outputs, and none of its layers.

    A distiller finds the pooled feature and the logits in it as in the teacher. It computes nothing of use.

    Args:
        facts: Those of the files that hold the outputs.
        folder: Where they are.

    Attributes:
        name (str): The teacher's class.
        images (str): What it saw of the images.
        weights_digest (str): That of the teacher's weights.
        why_not_evaluated (str): Why it predicts nothing.
    """

    is_stored = True

    def __init__(self, facts: Mapping[str, Any], folder: Path) -> None:
        shapes = {name: field.shape for name, field in RowLayout.from_facts(facts['outputs']).outputs.items()}
        backbone, head = _NoBackbone(shapes['pooled']), None
        if 'logits' in shapes:
            kind = MultiLabelLinearClsHead if facts['teacher']['several_labels'] else LinearClsHead
            head = kind(num_classes=shapes['logits'][0], in_channels=shapes['pooled'][0])
        super().__init__(backbone, head=head, data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'))
        self.weights_digest, self.classes = facts['teacher']['weights'], facts['teacher']['classes']
        self.why_not_evaluated = 'it is not in memory'
        self.name, self.folder = facts['teacher']['network'], folder
        (self.images,) = facts['teacher']['images']
        if head is None:
            as_teacher(self)


class _NoBackbone(BaseBackbone):
    """Return zeros for the pooled feature."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (torch.zeros(len(images), *self.shape, device=images.device),)

    def train(self, mode: bool = True) -> '_NoBackbone':
        return nn.Module.train(self, mode)


def stored_teacher(cache: TeacherCache | None, settings: Sequence[Mapping[str, Any]]) -> StoredTeacher | None:
    """Return the stand-in for a teacher if all of its outputs are stored and its weights are not given; else None.

    If they are (``teacher_ckpt``), they are compared with those of the outputs.

    Args:
        cache: The cache of the run, if it has one.
        settings: Those of its teachers, see ``checked_teachers``.

    Raises:
        CacheError: The files are damaged, or are not those of a cache.
    """
    if cache is None or cache.path is None or len(settings) > 1 or OutputStore.about(cache.path) is None:
        return None
    (teacher,) = settings
    file = teacher['teacher_ckpt']
    if teacher['random_teacher'] or isinstance(teacher['teacher'], nn.Module):
        return None
    if file and ('://' in file or Path(file).expanduser().is_file()):
        return None
    store = OutputStore.open(cache.path, {})
    if not store.complete:
        return None
    with undrawn():
        stored = StoredTeacher(store.facts, cache.path)
    # the student is initialised as next to the teacher
    advance(store.facts.get('draws') or 0)
    return stored
