"""The way from a request to a plan with its files."""

import copy
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.writing import atomic_write, write_checkpoint
from icd_mmrazor.configuration.files import apply_cfg_options, read_config_file
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.export.formats import FORMATS
from icd_mmrazor.export.trained import TrainedStudent
from icd_mmrazor.machine import cores
from icd_mmrazor.models.networks.changed_student import changing_distiller
from icd_mmrazor.models.networks.preparation import preparation_by
from icd_mmrazor.workflow.config import (
    Images,
    is_small_network,
    probe_settings,
    read_recipe,
    recipe_file,
    with_temperature,
)
from icd_mmrazor.workflow.config_text import Expression, config_text
from icd_mmrazor.workflow.cost import measure
from icd_mmrazor.workflow.folder import UNLABELED, ImageFolder, check_readable, read_folder, read_unlabeled
from icd_mmrazor.workflow.image_files import Inspection
from icd_mmrazor.workflow.networks import PUBLISHED, RANDOM, Network, build, find_student, find_teacher
from icd_mmrazor.workflow.plan import Plan
from icd_mmrazor.workflow.request import Request, formats_as_export
from icd_mmrazor.workflow.splits import split_off_validation, write_annotations

WRITTEN_BY = 'Written by tools/distill.py'
# images up to this size are trained on as small ones
SMALL_IMAGES = 64
TEACHER, ALONE, DISTILLED = 'teacher.py', 'student_alone.py', 'distilled.py'
RANDOM_WEIGHTS = 'teacher_random.pth'


def plan_of(request: Request) -> Plan:
    """Look at images and networks, and decide what is trained, without any training.

    Raises:
        SettingError: Something about the request cannot work.
        DatasetError: The images are not as they should be.
    """
    _check_views(request)
    recipes.settings_of(request.methods)  # refuses methods that need teaching assistants, or do not go together
    folder = read_folder(request.data)
    unlabeled = read_unlabeled(request.unlabeled) if request.unlabeled else None
    if unlabeled:
        _check_unlabeled(request, folder, unlabeled)
    elif (folder.root / UNLABELED).is_dir():
        note = f"leaves out the folder '{UNLABELED}', which is for --unlabeled"
        folder = dataclasses.replace(folder, notes=(*folder.notes, note))
    student = find_student(request.student, len(folder.classes))
    _check_formats(request, student)
    teacher = find_teacher(request.teacher, request.teacher_ckpt)
    probe = _reason_for_probe(request, teacher, folder)
    # all other checks are quick
    folder, found = check_readable(folder, request.skip_unreadable)
    if not folder.val:
        folder = split_off_validation(folder, request.val_fraction, request.seed)
    without = check_readable(unlabeled, request.skip_unreadable, '--unlabeled') if unlabeled else None
    image_size = image_size_of_student(request, student, found)
    recipe = read_recipe(request.recipe, image_size)
    processes = int(os.environ.get('WORLD_SIZE', 1))
    batch_size = request.batch_size or recipe.train_dataloader.batch_size
    labeled = batch_size = min(batch_size, len(folder.train)) if without is None else batch_size
    if batch_size < 2:
        raise SettingError(f'--batch-size {batch_size}: a batch needs two images or more to compare.')
    plan = Plan(
        request,
        folder,
        found,
        without,
        teacher,
        student,
        probe,
        image_size,
        batch_size,
        labeled,
        epochs=request.epochs or recipe.train_cfg.max_epochs,
        probe_epochs=30 if len(folder.train) < 10_000 else 10,
        workers=max(1, min(recipe.train_dataloader.num_workers, cores() // processes)),
        processes=processes,
    )
    if without:
        plan.labeled = batch_size - _images_of(plan, Path()).unlabeled_in_batch
    return plan


def write_files(plan: Plan, folder: Path) -> None:
    """Write annotation files and configs of a plan into a folder, and measure what its distillation takes."""
    request, images = plan.request, _images_of(plan, folder)
    for name, items in (('train', plan.folder.train), ('val', plan.folder.val)):
        write_annotations(items, folder / f'{name}.txt')
    if plan.unlabeled:
        write_annotations(plan.unlabeled[0].train, folder / 'unlabeled.txt')
    if isinstance(images.classes, str):
        atomic_write(''.join(f'{name}\n' for name in plan.folder.classes), Path(images.classes))
    if plan.teacher.weights == RANDOM and not (folder / RANDOM_WEIGHTS).is_file():
        write_random_weights(plan.teacher, request.seed, folder / RANDOM_WEIGHTS)
    for name, text in config_files(plan, folder).items():
        atomic_write(text, folder / name)
    cfg = read_config_file(folder / DISTILLED)
    apply_cfg_options(cfg, request.cfg_options)
    size = plan.teacher.published_size
    plan.cost = measure(cfg, plan.batch_size, plan.image_size, len(plan.folder.train), size)
    if plan.cost.initial_epochs:
        atomic_write(_distilled(plan, folder, images, plan.cost.initial_epochs), folder / DISTILLED)


def config_files(plan: Plan, folder: Path) -> dict[str, str]:
    """Return the config files of a plan by their names; ``folder`` is where they will be."""
    request, images = plan.request, _images_of(plan, folder)
    common: dict[str, Any] = {**images.loaders(), 'train_cfg': dict(max_epochs=plan.epochs)}
    optimizer, base = images.recipe.optim_wrapper.optimizer, images.recipe.auto_scale_lr.base_batch_size
    if base != plan.batch_size * plan.processes:  # the learning rate follows the size of the batch
        common['optim_wrapper'] = dict(optimizer=dict(lr=optimizer.lr * plan.batch_size * plan.processes / base))
    common['randomness'] = dict(seed=request.seed)
    title = f'{WRITTEN_BY}: the images and the recipe'
    recipe = f'icd_mmrazor::_base_/recipes/{recipe_file(request.recipe, plan.image_size)}'
    files = {'data.py': config_text(title, [recipe], common, images.code)}
    alone: dict[str, Any] = dict(model=plain(plan.student.cfg))
    if plan.unlabeled:  # as many steps as with the teacher, on as many images with labels each
        alone['train_dataloader'] = dict(batch_size=plan.labeled)
        alone['train_cfg'] = dict(max_epochs=plan.alone_epochs)
    files[ALONE] = config_text(f'{WRITTEN_BY}: the student without a teacher', ['./data.py'], alone)
    if plan.probe:
        files[TEACHER] = _teacher(plan, folder, images)
    files[DISTILLED] = _distilled(plan, folder, images)
    return files


def write_random_weights(teacher: Network, seed: int, file: Path) -> None:
    """Write weights for a teacher that has none, drawn by a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(teacher.cfg, 'teacher')
        write_checkpoint(dict(state_dict=network.state_dict()), file)


def _images_of(plan: Plan, folder: Path) -> Images:
    recipe = read_recipe(plan.request.recipe, plan.image_size)
    numbers = len(plan.folder.train), len(plan.unlabeled[0].train) if plan.unlabeled else 0
    return Images(
        plan.folder.root,
        folder,
        plan.folder.classes,
        recipe,
        plan.image_size,
        plan.batch_size,
        plan.workers,
        numbers,
        plan.request.flip,
    )


def _check_views(request: Request) -> None:
    """Refuse methods that need two views of each image in a batch, which no recipe makes."""
    if needing := [name for name in request.methods if 'views' in recipes.needs_of(name)]:
        raise SettingError(
            f'--method {request.method}: {", ".join(needing)} needs two views of each image in a batch, and recipes '
            "make one. Use another method, or a config with a TwoViewDataset, such as configs/mlkd's."
        )


def _check_unlabeled(request: Request, folder: ImageFolder, unlabeled: ImageFolder) -> None:
    """Refuse images without labels that have labels, too, and methods that read a label for each image.

    A student that is trained on the images it is validated on has an accuracy that means nothing.
    """
    labeled, without = ({f'{each.root}/{file}' for file in each.files} for each in (folder, unlabeled))
    if shared := labeled & without:
        raise DatasetError(
            f'--unlabeled {unlabeled.root}: {len(shared)} of its {len(without)} images are images of --data, too. '
            'Give a folder with other images.'
        )
    alone = len(request.methods) == 1
    if reading := [name for name in request.methods if 'labels' in recipes.needs_of(name, alone)]:
        raise SettingError(
            f'--method {request.method}: {", ".join(reading)} reads a label for each image, and those of --unlabeled '
            'have none. Leave out --unlabeled, or use another method.'
        )


def _check_formats(request: Request, student: Network) -> None:
    """Refuse a format that cannot hold the student, before it is trained."""
    checks = {name: settings for name in request.export if (settings := FORMATS[name].settings)}
    if checks and changing_distiller(recipes.compose_distiller(request.methods)) is not None:
        raise SettingError(
            f'--export {next(iter(checks))}: --method {request.method} puts a projector into the student, which no '
            'network of that package has. Use torchscript, pt2, onnx or safetensors.'
        )
    if checks:
        untrained = TrainedStudent(
            build(student.cfg, 'student'), Config(dict(model=student.cfg)), dict(meta={}), Config()
        )
        for settings in checks.values():
            with formats_as_export():
                settings(untrained)


def _reason_for_probe(request: Request, teacher: Network, folder: ImageFolder) -> str:
    """Say why a method needs a new classifier on the teacher; empty if it does not."""
    needs = {name: recipes.needs_of(name) for name in request.methods}
    if (comparing := [name for name in needs if 'logits' in needs[name]]) and not teacher.knows(folder.classes):
        return f'{"+".join(comparing)} compares logits, and this teacher has {_other_classes(teacher, folder)}'
    if (reading := [name for name in needs if 'classifier' in needs[name]]) and teacher.headless:
        return f"{'+'.join(reading)} needs the teacher's classifier, and this teacher has none"
    return ''


def _other_classes(teacher: Network, folder: ImageFolder) -> str:
    if teacher.headless:
        return 'no classifier'
    if teacher.classes != len(folder.classes):
        return f'a classifier of {teacher.classes} classes'
    return 'a classifier of classes with other names'


def image_size_of_student(request: Request, student: Network, found: Inspection) -> int:
    """Return height and width of the images of a student: those asked for, its own, or what suits the images.

    Raises:
        SettingError: The student takes images of another size, or not square ones.
    """
    own = student.size
    if own and own[0] != own[1]:
        raise SettingError(f'--student {student.name} is for images of {own[1]} x {own[0]}, which are not square.')
    size = request.image_size
    if own and size and own[0] != size:
        raise SettingError(
            f'--image-size {size}: the student {student.name} is for images of {own[0]} x {own[0]}. Leave it out, or '
            'give a student of that size.'
        )
    if size or own:
        return size or own[0]
    if is_small_network(student.cfg):
        return 32
    longest = max(max(pixels) for pixels in found.sizes)
    return 224 if longest > SMALL_IMAGES else 32 if longest <= 32 else SMALL_IMAGES


def _teacher(plan: Plan, folder: Path, images: Images) -> str:
    preprocessor = plan.teacher.cfg.get('data_preprocessor') or images.recipe.data_preprocessor
    preprocessor = {
        key: value for key, value in preprocessor.items() if key not in ('batch_augments', 'num_classes', 'to_onehot')
    }
    preprocessor.setdefault('type', 'ClsDataPreprocessor')
    network = copy.deepcopy(plan.teacher.cfg)
    network.pop('data_preprocessor', None)
    model = dict(
        type='TeacherProbe',
        num_classes=len(plan.folder.classes),
        teacher=plan.teacher.entry or plain(network),
        teacher_ckpt=weights_of_teacher(plan.teacher, folder),
    )
    title = f'{WRITTEN_BY}: a linear classifier on the features of the teacher'
    return config_text(title, ['./data.py'], probe_settings(images, model, plain(preprocessor), plan.probe_epochs))


def weights_of_teacher(teacher: Network, folder: Path) -> str | None:
    """Return the ``teacher_ckpt`` of a config for a work folder; None if the teacher has published weights."""
    return {RANDOM: str(folder / RANDOM_WEIGHTS), PUBLISHED: None}.get(teacher.weights, teacher.weights)


def _distilled(plan: Plan, folder: Path, images: Images, initial_epochs: int = 0) -> str:
    if plan.probe:
        teacher: Any = dict(cfg_path=str(folder / TEACHER), cache=False)
        weights = str(folder / 'teacher' / f'epoch_{plan.probe_epochs}.pth')
    else:
        teacher, weights = plan.teacher.entry or plain(plan.teacher.cfg), weights_of_teacher(plan.teacher, folder)
    settings: dict[str, Any] = dict(
        model=dict(
            _scope_='mmrazor',
            type='FrozenTeacherDistill',
            architecture=Expression("_base_.pop('model')"),
            teacher=teacher,
            teacher_ckpt=weights,
            distiller=plain(distiller_of(plan)),
        )
    )
    turned = preparation_by(plan.teacher.cfg.get('data_preprocessor') or {}).turned
    if plan.gray and turned != images.recipe.data_preprocessor.to_rgb and not plan.probe:
        # the channels of gray images are alike in any order
        settings['model']['teacher_preprocessor'] = dict(to_rgb=images.recipe.data_preprocessor.to_rgb)
    if plan.unlabeled:
        settings['train_dataloader'] = images.partly_labeled(plan.unlabeled[0].root)
        settings['train_cfg'] = dict(max_epochs=plan.epochs)
    if initial_epochs:  # the schedule starts after them
        settings['param_scheduler'] = dict(by_epoch=True, begin=initial_epochs)
        settings['train_cfg'] = dict(max_epochs=plan.epochs + initial_epochs)
        settings['find_unused_parameters'] = True  # some are idle in each stage
    cfg = Config(settings)
    cfg.merge_from_dict(recipes.settings_of(plan.request.methods))
    # such a method mixes images itself, in a second batch
    if any('unmixed' in recipes.needs_of(name) for name in plan.request.methods):
        cfg.data_preprocessor = dict(batch_augments=None)
    title = f'{WRITTEN_BY}: the student with its teacher'
    return config_text(title, [f'./{ALONE}'], cfg.to_dict())


def distiller_of(plan: Plan) -> dict:
    """Return the distiller of a plan; ICD with KD is one distiller, as in its own config."""
    methods = plan.request.methods
    if set(methods) == {'icd', 'kd'}:
        distiller = dict(type='ICDDistiller', kd=dict(tau=4.0))
    else:
        distiller = recipes.compose_distiller(methods)
    return with_temperature(distiller, plan.temperature)


def plain(cfg: Any) -> Any:
    """Return a config as plain dictionaries, the scope that is the default one left out."""
    if isinstance(cfg, Mapping):
        return {key: plain(value) for key, value in cfg.items() if not (key == '_scope_' and value == 'mmpretrain')}
    if isinstance(cfg, list | tuple):
        return type(cfg)(map(plain, cfg))
    return cfg
