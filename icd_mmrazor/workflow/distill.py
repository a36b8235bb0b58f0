"""The distillation of a teacher on a folder of images."""

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, init_dist, is_distributed, is_main_process
from torch import nn

from icd_mmrazor import compat
from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.errors import DatasetError
from icd_mmrazor.export.formats import Exported, check_files, export, files_of
from icd_mmrazor.export.trained import TrainedStudent, read_student
from icd_mmrazor.launch.machines import joined_processes
from icd_mmrazor.report.page import write_report
from icd_mmrazor.workflow import preparation, search, search_result
from icd_mmrazor.workflow.folder import read_folder, read_unlabeled
from icd_mmrazor.workflow.lock import WorkFolderLock
from icd_mmrazor.workflow.preparation import ALONE, DISTILLED, TEACHER
from icd_mmrazor.workflow.request import (
    RETRIEVAL,
    Request,
    formats_as_export,
    read_settings,
    refuse_other_settings,
    write_settings,
)
from icd_mmrazor.workflow.stages import Stage, run_stage

METRIC = 'accuracy/top1'
PREPARED, EXPORTED, REPORT = 'plan.json', 'exported.json', 'report.html'


@dataclasses.dataclass(frozen=True)
class Result:
    """What a distillation came to: ``student.distillation``.

    Args:
        classes: The names of the classes, by their labels.
        accuracy: Top-1 accuracy of the student on the validation set, in percent.
        teacher_accuracy: The same of the teacher; None if it has no classifier.
        baseline_accuracy: The same of the student trained without a teacher; None if that was not asked for.
        parameters: The number of parameters of teacher and student, as its distiller changes it (``simkd``).
        exported: The files of the student.
        work_dir: The folder of all files.
        alone_parameters: The number of parameters of the student that was trained without a teacher, if it differs.
    """

    classes: tuple[str, ...]
    accuracy: float
    teacher_accuracy: float | None
    baseline_accuracy: float | None
    parameters: tuple[int, int]
    exported: tuple[Exported, ...]
    work_dir: Path
    alone_parameters: int | None = None

    def __str__(self) -> str:
        rows = [('teacher', self.teacher_accuracy, self.parameters[0])]
        if self.baseline_accuracy is not None:
            rows.append(('student alone', self.baseline_accuracy, self.alone_parameters or self.parameters[1]))
        rows.append(('student', self.accuracy, self.parameters[1]))
        table = [f'{"":13}  {"accuracy (%)":>12}  {"parameters":>12}']
        table += [
            f'{name:13}  {"-" if accuracy is None else f"{accuracy:.2f}":>12}  {parameters:12,}'
            for name, accuracy, parameters in rows
        ]
        files = [str(each) for each in self.exported]
        usage = self.exported[0].usage
        return '\n'.join([*table, '', *files, '', 'Use the student:', *(f'  {line}' for line in usage.splitlines())])


def distill(
    teacher: str | os.PathLike | dict,
    student: str | os.PathLike | dict,
    data: str | os.PathLike,
    *,
    task: str = 'classification',
    unlabeled: str | os.PathLike | None = None,
    method: str | Sequence[str] = 'icd+kd',
    recipe: str = 'standard',
    image_size: int | None = None,
    flip: bool = True,
    epochs: int | None = None,
    batch_size: int | None = None,
    teacher_ckpt: str | os.PathLike | None = None,
    baseline: bool = False,
    val_fraction: float = 0.2,
    seed: int = 0,
    skip_unreadable: bool = False,
    export: Sequence[str] | str = (),
    work_dir: str | os.PathLike | None = None,
    dry_run: bool = False,
    launcher: str = 'none',
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module | None:
    """Distil a teacher into a student on a folder of images; ``tools/distill.py`` as a function.

    It looks at the images, splits a validation set off if there is none, writes plain configs into the work folder,
    trains a linear classifier for the teacher if the method compares logits and the teacher has none of these classes,
    distils, exports the student and evaluates it. Called again with the same arguments, it continues where it was
    interrupted; what has been finished is not repeated.

    Args:
        teacher: A name of mmpretrain's model zoo, ``timm/NAME``, ``hf/NAME``, one of our networks (``'res56'``), a
            config file, a config, or a checkpoint that has its config inside.
        student: The same, except for checkpoints. Its classifier is set to the classes of the folder; for a
            retrieval, a projection to the width of the teacher's feature replaces it.
        data: A folder of images, ``CLASS/*`` or ``train/CLASS/*`` and ``val/CLASS/*``; for a retrieval, in any
            subfolders.
        task: ``'classification'``, or ``'retrieval'``: the student learns to find images in the folder, whose
            subfolders have no meaning, among the embeddings of the teacher.
        unlabeled: A folder of more images, without classes.
        method: A method, or several with ``+`` or in a list: ``'icd'``, ``'icd+kd'``, ``['crd', 'kd']``.
        recipe: ``'fast'`` (10 epochs), ``'standard'`` (100) or ``'patient'`` (300).
        image_size: Height and width of the student's images; by default what suits student and images.
        flip: Whether the mirror image of an image is of the same class. Switch it off for digits, text and the like.
        epochs: Epochs, in place of the recipe's.
        batch_size: Images in a batch of each process, in place of the recipe's; the learning rate follows.
        teacher_ckpt: The teacher's weights; ``'random'`` draws them, to try things out. By default those published for
            a network of a zoo.
        baseline: Whether to train the student without a teacher, too.
        val_fraction: Fraction of each class to validate on, if the folder has no validation set; for a retrieval, of
            all images.
        seed: Seed of the split and of all trainings.
        skip_unreadable: Whether to leave out images that cannot be read.
        export: Formats besides mmpretrain's, such as ``'onnx'`` and ``'onnx-int8'``; a list, or names with commas.
        work_dir: The folder of all files; by default ``work_dirs/DATA_TEACHER_STUDENT_METHOD``, of a retrieval
            ``work_dirs/DATA_TEACHER_STUDENT_retrieval``.
        dry_run: Whether to print the plan alone: nothing is trained or written.
        launcher: What started the processes, as in ``tools/train.py``.
        cfg_options: Settings of the distillation to change, by their dotted keys; those that are not of ``model`` also
            change for the student alone.

    Returns:
        The student, a classifier of mmpretrain in eval mode on the CPU: ``student(images)`` has its logits, for images
        normalised by ``student.data_preprocessor``. ``student.distillation`` is the :class:`Result`: ``classes``,
        ``accuracy``, ``teacher_accuracy``, ``exported``, ... Of a search, it is a retriever, which embeds queries, and
        the result a :class:`~icd_mmrazor.workflow.search_result.SearchResult`. None in a dry run, and in all processes
        but the first.

    Raises:
        SettingError: An argument is wrong, networks and method do not fit together, or the work folder is of another
            request.
        DatasetError: The images are not as they should be.
        CheckpointError: The teacher's weights cannot be read.

    Example::

        student = icd_mmrazor.distill('resnet50_8xb32_in1k', 'mobilenet-v3-small_8xb128_in1k', 'data/flowers')
        print(student.distillation.accuracy)
    """
    request = Request(**locals())
    compat.runtime()
    with explained_settings():
        if dry_run:
            show_plan(request)
            return None
        cfg = Config(dict(launcher=launcher, env_cfg=dict(dist_cfg=dict(backend='nccl'))))
        lock = WorkFolderLock(request.work_dir.absolute())
        try:
            with joined_processes(cfg):
                if launcher != 'none' and not is_distributed():
                    init_dist(launcher, **cfg.env_cfg.dist_cfg)
                results, main = _train(request, lock, cfg.get('model_wrapper_cfg')), is_main_process()
            # one process exports, out of the group of all
            return finished_student(request, results) if main else None
        finally:
            lock.release()


def show_plan(request: Request) -> None:
    """Print what a request comes to; its files are written into a folder that is removed again."""
    _refuse_other_request(request)
    part = _part_for(request)
    plan = part.plan_of(request)
    with tempfile.TemporaryDirectory() as folder:
        part.write_files(plan, Path(folder))
    print(plan)


def _part_for(request: Request) -> ModuleType:
    """Return what plans the task of a request: ``plan_of`` and ``write_files``."""
    return search if request.task == RETRIEVAL else preparation


def _train(request: Request, lock: WorkFolderLock, wrapper: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Prepare the work folder and run all trainings; return the result of each."""
    work_dir = request.work_dir.absolute()
    if is_main_process():
        prepare(request, work_dir, lock)
    barrier()
    return {
        stage.name: run_stage(stage, request.launcher, _options(request, stage), wrapper)
        for stage in stages_of(request, work_dir)
    }


def student_files(request: Request) -> dict[str, Path]:
    """Return the files that a student is exported to, by their formats."""
    return files_of(['mmpretrain', *request.export], request.work_dir.absolute() / 'student')


def finished_student(request: Request, results: Mapping[str, Any]) -> nn.Module:
    """Export and evaluate the trained student; return it."""
    if request.task == RETRIEVAL:
        work_dir = request.work_dir.absolute()
        parameters = (_read(work_dir / PREPARED) or {}).get('parameters', [0, 0])
        model = search_result.finish(student_files(request), results, work_dir, parameters)
        print(f'\n{model.distillation}')
        return model
    student = read_student(results['distilled']['checkpoint'])
    result = finish(student, student_files(request), results, request.work_dir.absolute())
    print(f'\n{result}\n\nThe report, to look at or to send around: {_report(request)}')
    student.model.distillation = result
    return student.model


def _report(request: Request) -> Path:
    """Return the report of the run, written unless that has been done."""
    file = request.work_dir / REPORT
    return file if file.is_file() else write_report(request.work_dir)


def _options(request: Request, stage: Stage) -> dict[str, Any]:
    """Return the settings to change in a training: a fair baseline has those of images and schedule, too."""
    options = request.cfg_options
    if stage.name == 'student_alone':
        options = {key: value for key, value in options.items() if key.partition('.')[0] != 'model'}
    return {} if stage.name == 'teacher' else dict(options)


def prepare(request: Request, work_dir: Path, lock: WorkFolderLock) -> None:
    """Make a work folder ready, or check that it is the one of this request; take its lock."""
    _refuse_other_request(request)
    if (done := _read(work_dir / PREPARED)) is not None:
        _refuse_other_images(request, done['images'])
        lock.take()
        print(f'{work_dir} is of this request; what is finished there is not repeated.', flush=True)
        return
    part = _part_for(request)
    plan = part.plan_of(request)
    lock.take()
    write_settings(work_dir, request.settings())
    part.write_files(plan, work_dir)
    print(f'{plan}\n', flush=True)
    write_json(dict(plan=str(plan), parameters=plan.parameters, images=_images_in(request)), work_dir / PREPARED)


def _refuse_other_request(request: Request) -> None:
    """Refuse a work folder of another request, formats whose packages are missing, and files that cannot be written."""
    with formats_as_export():
        check_files(student_files(request), force=True)
    if (stored := read_settings(request.work_dir)) is not None:
        refuse_other_settings(request.work_dir, stored, request.settings())


def stages_of(request: Request, work_dir: Path) -> list[Stage]:
    """Return the trainings of a work folder that is ready, in their order."""
    configs = {'teacher': TEACHER, **({'student_alone': ALONE} if request.baseline else {}), 'distilled': DISTILLED}
    files = {name: work_dir / file for name, file in configs.items()}
    return [Stage(name, file, work_dir / name) for name, file in files.items() if file.is_file()]


def finish(student: TrainedStudent, files: Mapping[str, Path], results: Mapping[str, Any], work_dir: Path) -> Result:
    """Export a student, unless that has been done, and collect the accuracies."""
    done = _read(work_dir / EXPORTED)
    checkpoint = results['distilled']['checkpoint']
    if done and done['files'] == [str(file) for file in files.values()] and done['checkpoint'] == checkpoint:
        exported = [Exported(**{**each, 'file': Path(each['file'])}) for each in done['exported']]
    else:
        exported = export(student, files, measure=True)
        each = [{**item._asdict(), 'file': str(item.file)} for item in exported]
        write_json(
            dict(files=[str(file) for file in files.values()], checkpoint=checkpoint, exported=each),
            work_dir / EXPORTED,
        )
    teacher, alone = _read(work_dir / PREPARED)['parameters']
    own = sum(parameter.numel() for parameter in student.model.parameters())
    metrics = next(item.metrics for item in exported if item.format == 'mmpretrain')
    return Result(
        classes=tuple(student.classes or ()),
        accuracy=metrics[METRIC],
        teacher_accuracy=results['distilled']['teacher'].get(METRIC),
        baseline_accuracy=results.get('student_alone', {}).get('metrics', {}).get(METRIC),
        parameters=(teacher, own),
        exported=tuple(exported),
        work_dir=work_dir,
        alone_parameters=alone,
    )


def _refuse_other_images(request: Request, then: Mapping[str, Any]) -> None:
    now = _images_in(request)
    for name, (number, digest) in now.items():
        if [number, digest] != then.get(name):
            raise DatasetError(
                f'--{name} {getattr(request, name)} has changed since --work-dir {request.work_dir} was made: '
                f'{then.get(name, [0])[0]} images then, {number} now. Give a new work folder for these images.'
            )


def _images_in(request: Request) -> dict[str, list]:
    """Return number and digest of the images of a request, by their paths and sizes."""
    read = functools.partial(read_unlabeled, setting='--data') if request.task == RETRIEVAL else read_folder
    folders = {'data': read(request.data)}
    if request.unlabeled:
        folders['unlabeled'] = read_unlabeled(request.unlabeled)
    digest = {name: hashlib.sha256(repr(each.fingerprint()).encode()).hexdigest() for name, each in folders.items()}
    return {name: [len(each.files), digest[name]] for name, each in folders.items()}


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
