"""The result of a search."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS
from torch import nn

from icd_mmrazor.checkpoints.writing import write_arrays
from icd_mmrazor.export.formats import Exported, export
from icd_mmrazor.export.student import GALLERY, plain_student
from icd_mmrazor.export.trained import TrainedStudent, read_student
from icd_mmrazor.models.losses.functional import unit_vectors
from icd_mmrazor.workflow.search import RANKS, RECALLS, names_of

METRICS = tuple(f'retrieval/{name}' for name in (*(f'Recall@{k}' for k in RECALLS), f'MRR@{RANKS}'))
EXPORTED_GALLERY = 'gallery.npz'
USAGE = """\
import numpy as np, torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmpretrain import get_model
init_default_scope('mmpretrain')
cfg, gallery = Config.fromfile({config!r}), np.load({gallery!r})
student = get_model(cfg, pretrained={file!r}).eval()
prepare = Compose(cfg.query_pipeline)
image = student.data_preprocessor(dict(inputs=[prepare(dict(img_path='IMAGE_FILE'))['inputs']]))['inputs']
with torch.no_grad():
    query = student(image)[-1][0].numpy()
scores = gallery['embeddings'] @ query / np.linalg.norm(query)
print(gallery['names'][scores.argsort()[:-6:-1]])"""


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a distillation for a search came to: ``student.distillation``.

    Args:
        metrics: Of the student's searches in the validation, in percent: Recall@1, @5, @20 and MRR@10.
        teacher_metrics: The same of the teacher's.
        parameters: The number of parameters of teacher and student.
        exported: The file of the student.
        gallery: The file of the teacher's embeddings of the gallery.
        work_dir: The folder of all files.
    """

    metrics: dict[str, float]
    teacher_metrics: dict[str, float]
    parameters: tuple[int, int]
    exported: tuple[Exported, ...]
    gallery: Path
    work_dir: Path

    def __str__(self) -> str:
        names = [name.partition('/')[2] for name in METRICS]
        table = [f'{"":8}{"".join(f"{name:>11}" for name in names)}  {"parameters":>12}']
        for name, metrics, parameters in (
            ('teacher', self.teacher_metrics, self.parameters[0]),
            ('student', self.metrics, self.parameters[1]),
        ):
            numbers = ''.join(f'{metrics[each]:11.2f}' if each in metrics else f'{"-":>11}' for each in METRICS)
            table.append(f'{name:8}{numbers}  {parameters:12,}')
        size = self.gallery.stat().st_size / 1e6
        files = [
            *map(str, self.exported),
            f"{self.gallery}: {size:.2f} MB, the teacher's embeddings and the file names",
        ]
        lines = self.exported[0].usage.splitlines()
        return '\n'.join([*table, '', *files, '', 'Search with the student:', *(f'  {line}' for line in lines)])


def finish(files: Mapping[str, Path], results: Mapping[str, Any], work_dir: Path, parameters: Any) -> nn.Module:
    """Export the trained student and its gallery; return the student, with its result as ``distillation``.

    Args:
        files: The files of the student, by their formats.
        results: The result of each training.
        work_dir: The work folder.
        parameters: The numbers of parameters of teacher and student.
    """
    result = results['distilled']
    student = _without_validation(read_student(result['checkpoint']))
    gallery = write_gallery(work_dir / 'distilled' / GALLERY, work_dir, files['mmpretrain'].with_name(EXPORTED_GALLERY))
    exported = export(student, files, size=_size_of_query(student))
    file = files['mmpretrain']
    usage = USAGE.format(config=str(file.with_suffix('.py')), file=str(file), gallery=str(gallery))
    exported = [each._replace(usage=usage) if each.format == 'mmpretrain' else each for each in exported]
    student.model.distillation = SearchResult(
        {name: value for name, value in result['metrics'].items() if name in METRICS},
        {name: value for name, value in result['teacher'].items() if name in METRICS},
        tuple(parameters),
        tuple(exported),
        gallery,
        work_dir,
    )
    return student.model


def _without_validation(student: TrainedStudent) -> TrainedStudent:
    """Return a student whose config has the pipeline of a query instead of its validation, which needs this package."""
    cfg = copy.deepcopy(student.run_cfg)
    for split in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg.pop(f'{split}_{part}', None)
    own = plain_student(cfg)
    # a query that somebody has is not degraded
    own.query_pipeline = cfg.model.architecture.prototype.dataset.dataset.pipeline
    student.checkpoint['meta']['cfg'] = own.pretty_text
    return dataclasses.replace(student, cfg=own)


def _size_of_query(student: TrainedStudent) -> tuple[int, int]:
    """Return height and width of a query, as the first image of the gallery is prepared."""
    dataset = student.run_cfg.model.architecture.prototype.dataset.dataset
    with DefaultScope.overwrite_default_scope(student.cfg.default_scope):
        height, width = DATASETS.build({**dataset, 'indices': 1})[0]['inputs'].shape[-2:]
    return height, width


def write_gallery(embeddings: Path, work_dir: Path, file: Path) -> Path:
    """Write the embeddings of a gallery as unit vectors, ``N x D``, with the names of its images, as plain arrays."""
    vectors = unit_vectors(torch.load(embeddings, weights_only=True)).numpy()
    write_arrays({'embeddings': vectors.astype(np.float32), 'names': np.array(names_of(work_dir))}, file)
    return file
