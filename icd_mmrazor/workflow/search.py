"""The plan of a search, with its files."""

import dataclasses
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.export.formats import FORMATS
from icd_mmrazor.machine import cores
from icd_mmrazor.models.algorithms.predictions import pooled_point
from icd_mmrazor.models.networks.classifier_layer import number_of_channels
from icd_mmrazor.models.networks.features import feature_shapes, usual_image_shape
from icd_mmrazor.models.networks.headless import as_teacher
from icd_mmrazor.models.networks.preparation import preparation_by
from icd_mmrazor.models.networks.retrieval import embedding_of
from icd_mmrazor.workflow.config import read_recipe
from icd_mmrazor.workflow.config_text import Expression, config_text
from icd_mmrazor.workflow.folder import ImageFolder, check_readable, read_unlabeled
from icd_mmrazor.workflow.image_files import Inspection
from icd_mmrazor.workflow.networks import RANDOM, WEIGHTS, Network, build, find_student, find_teacher
from icd_mmrazor.workflow.preparation import (
    DISTILLED,
    RANDOM_WEIGHTS,
    WRITTEN_BY,
    image_size_of_student,
    plain,
    weights_of_teacher,
    write_random_weights,
)
from icd_mmrazor.workflow.request import Request
from icd_mmrazor.workflow.splits import write_annotations

# the first of a search that the metrics count
RECALLS, RANKS = (1, 5, 20), 10
# for as many queries in a batch of all processes as the recipe has images
LEARNING_RATE = 2e-3
GALLERY, TRAIN, VAL = 'gallery.txt', 'train.txt', 'val.txt'
# of arguments that only a classification takes
CLASSIFYING = ('unlabeled', 'method', 'flip', 'baseline')


@dataclasses.dataclass
class SearchPlan:
    """A search, as planned from a request.

    Args:
        request: The request.
        folder: The images of the gallery; a part of them is searched in training, the others in the validation.
        found: What they are like.
        teacher: The teacher.
        student: The network of the student, with its classifier.
        width: Width of the teacher's embeddings.
        image_size: Height and width of the student's images.
        batch_size: Queries in a batch of a process.
        epochs: Epochs of the training.
        workers: Processes that read images.
        processes: Processes that train.
        parameters: The numbers of parameters of teacher and student.
    """

    request: Request
    folder: ImageFolder
    found: Inspection
    teacher: Network
    student: Network
    width: int
    image_size: int
    batch_size: int
    epochs: int
    workers: int
    processes: int = 1
    parameters: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        folder, request, size = self.folder, self.request, self.image_size
        steps = len(folder.train) // (self.batch_size * self.processes)
        weights = '' if self.teacher.name.endswith(WEIGHTS) else f', weights {self.teacher.weights}'
        rows = {
            'gallery': f'{folder.root}\n{len(folder.files)} images, {self.found.size_range} pixels',
            'queries': (
                f'degraded views of them: of {len(folder.train)} new ones in each epoch, of the other '
                f'{len(folder.val)} one each, to validate on (seed {request.seed})'
            ),
            'teacher': f'{self.teacher.name}, {self.parameters[0]:,} parameters{weights}; it embeds the gallery',
            'student': f'{self.student.name}, {self.parameters[1]:,} parameters; it embeds queries, {self.width} wide',
            'training': (
                f'{self.epochs} epochs of {steps} steps, batches of {self.batch_size}, images of {size} x {size}, '
                f'seed {request.seed}'
            ),
            'work folder': str(request.work_dir),
        }
        indent = '\n' + ' ' * 13
        return '\n'.join(f'{name:11}  {text}'.replace('\n', indent) for name, text in rows.items())


def plan_of(request: Request) -> SearchPlan:
    """Look at images and networks, and decide what is trained, without any training.

    Raises:
        SettingError: Something about the request cannot work.
        DatasetError: There are too few images, or they cannot be read.
    """
    _refuse_settings_of_classes(request)
    folder = read_unlabeled(request.data, '--data')
    student, teacher = find_student(request.student, 2), find_teacher(request.teacher, request.teacher_ckpt)
    _refuse_other_students(student)
    folder, found = check_readable(folder, request.skip_unreadable)
    image_size = image_size_of_student(request, student, found)
    recipe = read_recipe(request.recipe, image_size)
    processes = int(os.environ.get('WORLD_SIZE', 1))
    batch_size = request.batch_size or recipe.train_dataloader.batch_size
    if batch_size < 2:
        raise SettingError(f'--batch-size {batch_size}: a batch needs two queries or more, to compare their images.')
    folder = _split(folder, request)
    if len(folder.train) < batch_size * processes or len(folder.files) < max(RECALLS):
        raise DatasetError(
            f'--data {folder.root} has {len(folder.files)} images, {len(folder.train)} of them to train on. A search '
            f'needs {max(RECALLS)} images or more, and as many to train on as a batch has queries, '
            f'{batch_size * processes}. Give more images, or a smaller --batch-size.'
        )
    width = _embedded_width(teacher)
    plan = SearchPlan(
        request,
        folder,
        found,
        teacher,
        student,
        width,
        image_size,
        batch_size,
        epochs=request.epochs or recipe.train_cfg.max_epochs,
        workers=max(1, min(recipe.train_dataloader.num_workers, cores() // processes)),
        processes=processes,
    )
    own = build(dict(type='ImageToImageRetriever', image_encoder=encoder_of(plan), prototype='none'), 'student')
    plan.parameters = teacher.parameters, sum(p.numel() for p in own.parameters())
    return plan


def write_files(plan: SearchPlan, folder: Path) -> None:
    """Write the lists of images and the config of a plan into a folder."""
    for name, items in ((GALLERY, sorted((*plan.folder.train, *plan.folder.val))), (TRAIN, plan.folder.train)):
        write_annotations(items, folder / name)
    write_annotations(plan.folder.val, folder / VAL)
    if plan.teacher.weights == RANDOM and not (folder / RANDOM_WEIGHTS).is_file():
        write_random_weights(plan.teacher, plan.request.seed, folder / RANDOM_WEIGHTS)
    atomic_write(_config(plan, folder), folder / DISTILLED)


def encoder_of(plan: SearchPlan) -> list[dict[str, Any]]:
    """Return the config of the student's ``image_encoder``: its network without the classifier, and a projection."""
    parts = [plan.student.cfg.backbone, plan.student.cfg.get('neck')]
    parts = [{'_scope_': 'mmpretrain', **plain(part)} for part in parts if part]
    network = build(dict(type='ImageToImageRetriever', image_encoder=parts, prototype='none'), 'student')
    shape = (number_of_channels(network), plan.image_size, plan.image_size)
    (features,) = feature_shapes(network, [embedding_of(network, 'image_encoder')], shape)
    return [
        *parts,
        dict(type='LinearNeck', in_channels=features[0], out_channels=plan.width, norm_cfg=None),
    ]


def degraded(image_size: int) -> dict[str, Any]:
    """Return the transform that makes queries of images of a size."""
    shift, blur = max(1, image_size // 16), round(image_size / 32, 2)
    return dict(type='DegradedView', crop=0.7, shift=shift, color=0.4, blur=blur, noise=0.05)


def _config(plan: SearchPlan, folder: Path) -> str:
    recipe = read_recipe(plan.request.recipe, plan.image_size)
    documents = plain(recipe.val_dataloader.dataset.pipeline)
    settings: dict[str, Any] = dict(
        documents=documents,
        queries=[*documents[:-1], degraded(plan.image_size), documents[-1]],
        images=dict(type='CustomDataset', data_root=str(plan.folder.root), with_label=False),
        gallery=dict(
            type='CustomDataset',
            data_root=str(plan.folder.root),
            ann_file=str(folder / GALLERY),
            with_label=False,
            pipeline=Expression('documents'),
        ),
    )
    preprocessor = {k: v for k, v in recipe.data_preprocessor.items() if k not in ('batch_augments', 'num_classes')}
    # the learning rate follows the size of the batch
    rate = LEARNING_RATE * plan.batch_size * plan.processes / recipe.auto_scale_lr.base_batch_size
    loader = dict(batch_size=plan.batch_size, num_workers=plan.workers, persistent_workers=True)

    def search(name: str, **more: Any) -> dict[str, Any]:
        dataset = Expression(f'dict(**images, ann_file={str(folder / name)!r}, pipeline=queries)')
        return dict(type='QueryDataset', gallery=Expression('gallery'), dataset=dataset, **more)

    shuffled, ordered = (dict(type='DefaultSampler', shuffle=shuffle) for shuffle in (True, False))
    query = {f'{name[0]}_query': dict(network=name, feature='embedding') for name in ('student', 'teacher')}
    scores = dict(loss=dict(type='ScoreDistillationLoss', tau=0.05, normalize=True), inputs=query)
    matching = dict(loss=dict(type='EmbeddingMatchingLoss', normalize=True), features='embedding')
    gallery_loader = dict(batch_size=plan.batch_size, num_workers=plan.workers, sampler=ordered)
    student = dict(
        _scope_='mmpretrain',
        type='ImageToImageRetriever',
        image_encoder=encoder_of(plan),
        similarity_fn='cosine_similarity',
        prototype=dict(**gallery_loader, dataset=dict(type='GalleryDataset', dataset=Expression('gallery'))),
    )
    settings |= dict(
        data_preprocessor=plain(preprocessor),
        train_dataloader=dict(**loader, sampler=shuffled, drop_last=True, dataset=search(TRAIN)),
        val_dataloader=dict(**loader, sampler=ordered, dataset=search(VAL, seed=plan.request.seed)),
        val_evaluator=[dict(type='RetrievalRecall', topk=RECALLS), dict(type='MeanReciprocalRank', topk=RANKS)],
        test_dataloader=Expression('val_dataloader'),
        test_evaluator=Expression('val_evaluator'),
        val_cfg=dict(),
        test_cfg=dict(),
        model=dict(
            _scope_='mmrazor',
            type='FrozenTeacherDistill',
            calculate_student_loss=False,
            architecture=student,
            teacher=plan.teacher.entry or plain(plan.teacher.cfg),
            teacher_ckpt=weights_of_teacher(plan.teacher, folder),
            distiller=dict(type='FeatureDistiller', losses=dict(scores=scores, matching=matching)),
        ),
        custom_hooks=[dict(type='TeacherGalleryHook')],
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=rate, weight_decay=1e-2), clip_grad=dict(max_norm=5.0)),
        param_scheduler=dict(type='WarmupCosineLR', warmup=0.05, by_epoch=False),
        train_cfg=dict(by_epoch=True, max_epochs=plan.epochs, val_interval=max(1, plan.epochs // 10)),
        randomness=dict(seed=plan.request.seed),
    )
    turned = preparation_by(plan.teacher.cfg.get('data_preprocessor') or {}).turned
    if plan.found.gray and turned != recipe.data_preprocessor.to_rgb:
        # the channels of gray images are alike in any order
        settings['model']['teacher_preprocessor'] = dict(to_rgb=recipe.data_preprocessor.to_rgb)
    title = f"{WRITTEN_BY}: a student that searches in its teacher's gallery"
    text = config_text(title, ['icd_mmrazor::_base_/retrieval/runtime.py'], settings)
    return f'{text}del documents, queries, images, gallery\n'


def _split(folder: ImageFolder, request: Request) -> ImageFolder:
    """Split off the images of which the queries of the validation are views; the split depends on names and seed."""
    items = sorted(folder.train)
    random.Random(f'{request.seed} search').shuffle(items)
    number = min(max(round(request.val_fraction * len(items)), 1), len(items) - 1)
    return dataclasses.replace(folder, train=tuple(sorted(items[number:])), val=tuple(sorted(items[:number])))


def _embedded_width(teacher: Network) -> int:
    network: nn.Module = as_teacher(build(teacher.cfg, 'teacher'))
    shape = (usual_image_shape(network)[0], *(teacher.published_size or usual_image_shape(network)[1:]))
    (features,) = feature_shapes(network, [pooled_point(network)], shape)
    return features[0]


def _refuse_settings_of_classes(request: Request) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Request)}
    changed = [name for name in CLASSIFYING if getattr(request, name) not in (defaults[name], ())]
    if changed:
        option = {'flip': '--no-flip'}.get(changed[0], f'--{changed[0].replace("_", "-")}')
        raise SettingError(f'{option} is for --task classification, and this is a search. Leave it out.')
    if of_libraries := [name for name in request.export if FORMATS[name].settings]:
        raise SettingError(
            f'--export {of_libraries[0]}: that package has no network with the projection of a search. Use onnx, '
            'torchscript, pt2 or safetensors.'
        )


def _refuse_other_students(student: Network) -> None:
    if type_name(student.cfg.type) != 'ImageClassifier' or not student.cfg.get('backbone'):
        raise SettingError(
            f'--student {student.name} is a {type_name(student.cfg.type)}. A search needs a network of mmpretrain or '
            "one of ours; one of timm is dict(type='ImageClassifier', backbone=dict(type='TIMMBackbone', ...), "
            "neck=dict(type='GlobalAveragePooling'), head=...)."
        )


def names_of(plan_folder: Path) -> Sequence[str]:
    """Return the files of a gallery in its order, relative to the folder of images, from a work folder."""
    text = (plan_folder / GALLERY).read_text(encoding='utf-8')
    # not splitlines(): a name may have a U+2028
    return [line.removeprefix('./') for line in text.removesuffix('\n').split('\n')]
