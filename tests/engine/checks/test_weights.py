"""The weights that a run starts with, in runs that end before their first epoch."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from helpers import CHANGED, logged
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError

DIGITS = tuple('0123456789')
RENAMED = (*'013456789', 'two')
# and what takes long
UNTRAINED = {
    'train_cfg.max_epochs': 0,
    'param_scheduler': None,
    'train_dataloader.dataset.serialize_data': False,
    **dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator')),
}
NAMED = {'train_dataloader.dataset.metainfo': dict(classes=DIGITS)}
LISTED_NAMES = {'default_hooks.sanity_check.class_names': 'list'}
LISTED = {'default_hooks.sanity_check.partial_weights': 'list'}


@pytest.fixture
def weights(network: Callable) -> dict[str, Tensor]:
    """Weights of a student, none of them what an initialisation makes."""
    student = MODELS.build({'_scope_': 'mmpretrain', **network('res8')})
    return {name: torch.full_like(value, 0.5) for name, value in student.state_dict().items()}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Write a checkpoint and return its file."""

    def write(weights: Mapping[str, Tensor], prefix: str = '', **meta: object) -> str:
        file = tmp_path / 'start.pth'
        state_dict = {prefix + name: value for name, value in weights.items()}
        torch.save({'meta': {'epoch': 3, **meta}, 'state_dict': state_dict}, file)
        return str(file)

    return write


@pytest.fixture
def started(demo_config: Callable, runner: Callable) -> Callable[..., Runner]:
    """Begin a run, a distillation unless it is told otherwise, that ends before its first epoch."""

    def start(name: str = 'icd_res20_res8_digits', **options: object) -> Runner:
        run = runner(demo_config(name, **UNTRAINED, **options))
        run.train()
        return run

    return start


def of_file(run: Runner) -> set[str]:
    """Return which weights of a model have the value that the file gave all of its."""
    return {name for name, value in run.model.state_dict().items() if bool((value == 0.5).all())}


def counted(weights: Mapping[str, Tensor], prefix: str = '') -> set[str]:
    return {prefix + name for name, value in weights.items() if value.is_floating_point()}


@pytest.mark.parametrize('prefix', ['', 'architecture.', 'module.architecture.'])
def test_load_from_finds_the_student(
    prefix: str, started: Callable, written: Callable, weights: dict[str, Tensor]
) -> None:
    file = written(weights, prefix)
    run = started(load_from=file, custom_hooks=[dict(type='EMAHook')])
    assert of_file(run) == counted(weights, 'architecture.')
    # the copy that EMAHook averages in has them too
    averaged = next(hook for hook in run.hooks if isinstance(hook, EMAHook)).ema_model.module
    assert bool((averaged.architecture.head.fc.weight == 0.5).all())
    assert f'load_from={file}: 47 of 53 weights; not in the file: distiller.' in logged(run.cfg)
    plain = started('res8_digits', load_from=file)
    assert of_file(plain) == counted(weights)
    assert f'load_from={file}: 47 of 47 weights' in logged(plain.cfg)


@pytest.mark.parametrize('prefix', ['', 'module.architecture.'])
def test_init_cfg_finds_the_student(
    prefix: str, started: Callable, written: Callable, weights: dict[str, Tensor]
) -> None:
    pretrained = dict(type='Pretrained', checkpoint=written(weights, prefix))
    run = started(**{'model.architecture.init_cfg': pretrained})
    assert of_file(run) == counted(weights, 'architecture.')
    run = started('res8_digits', **{'model.init_cfg': [pretrained]})
    assert of_file(run) == counted(weights)
    # a part of the file, whatever the file is of
    run = started(**{'model.architecture.backbone.init_cfg': {**pretrained, 'prefix': 'backbone.'}})
    assert of_file(run) == {name for name in counted(weights, 'architecture.') if '.head.' not in name}
    head = dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=64)
    run = started(**{'model.architecture.head': {**head, 'init_cfg': {**pretrained, 'prefix': 'head'}}})
    assert of_file(run) == {'architecture.head.fc.weight', 'architecture.head.fc.bias'}


def test_init_cfg_of_a_student_that_is_initialised_as_it_is_built(
    demo_config: Callable, runner: Callable, written: Callable, weights: dict[str, Tensor]
) -> None:
    """As mmrazor's ``sub_model`` does."""
    pretrained = dict(type='Pretrained', checkpoint=written(weights, 'module.architecture.'))

    def start(init_cfg: dict) -> Runner:
        run = runner(demo_config(**UNTRAINED, **{'model.architecture.init_cfg': init_cfg}))
        run.model.architecture.init_weights()
        run.train()
        return run

    with pytest.raises(CheckpointError, match='0 of 47 weights'):
        start(pretrained)
    run = start({**pretrained, 'prefix': 'module.architecture'})
    assert of_file(run) == counted(weights, 'architecture.')
    # again, in a notebook
    run.train()


def test_a_whole_distillation_is_loaded_whole(started: Callable, tmp_path: Path) -> None:
    state_dict = {name: torch.full_like(value, 0.5) for name, value in started().model.state_dict().items()}
    torch.save(state_dict, tmp_path / 'bare.pth')
    run = started(load_from=str(tmp_path / 'bare.pth'))
    assert of_file(run) == counted(state_dict)
    run = started(**{'model.init_cfg': dict(type='Pretrained', checkpoint=str(tmp_path / 'bare.pth'))})
    assert of_file(run) == counted(state_dict)


def test_what_does_not_fit_is_refused(started: Callable, written: Callable, weights: dict[str, Tensor]) -> None:
    other = written(weights, 'encoder.')
    message = rf'load_from={other} is of another network: it has 0 of 53 weights; not in the file: architecture\.'
    with pytest.raises(CheckpointError, match=message):
        started(load_from=other)
    with pytest.raises(CheckpointError, match=rf'load_from={other}'):
        started('res8_digits', load_from=other)
    assert 'is of another network' in logged(started('res8_digits', load_from=other, **LISTED).cfg)
    # of a wider network a few names have the same shape
    wider = {name: value if value.ndim == 0 else value.repeat_interleave(2, 0) for name, value in weights.items()}
    wider['head.fc.bias'] = weights['head.fc.bias']
    with pytest.raises(CheckpointError, match='it has 1 of 47 weights; of another shape in the file: backbone'):
        started('res8_digits', load_from=written(wider))

    whole = dict(type='Pretrained', checkpoint=written(weights))
    with pytest.raises(CheckpointError, match=r'model\.architecture\.backbone\.init_cfg with checkpoint=.* 0 of 45 '):
        started(**{'model.architecture.backbone.init_cfg': whole})
    with pytest.raises(CheckpointError, match=r'model\.init_cfg with checkpoint'):
        started(**{'model.init_cfg': whole})
    with pytest.raises(CheckpointError, match=r'init_cfg with .* and prefix=teacher is of another network'):
        started(**{'model.architecture.init_cfg': {**whole, 'prefix': 'teacher'}})


def test_another_number_of_classes_is_fine(started: Callable, written: Callable, weights: dict[str, Tensor]) -> None:
    weights['head.fc.weight'], weights['head.fc.bias'] = torch.full((7, 64), 0.5), torch.full((7,), 0.5)
    run = started('res8_digits', load_from=written(weights, dataset_meta={'classes': tuple('abcdefg')}), **NAMED)
    assert of_file(run) == {name for name in counted(weights) if 'head' not in name}
    found = '45 of 47 weights; of another shape in the file: head.fc.weight, head.fc.bias'
    assert found in logged(run.cfg)


def test_a_lenient_teacher_is_refused(started: Callable, demo_config: Callable, written: Callable) -> None:
    teacher = torch.load(demo_config().model.teacher_ckpt, weights_only=True)['state_dict']
    lenient = {'model.type': 'SingleTeacherDistill', 'model.teacher_ckpt': written(teacher, 'architecture.')}
    with pytest.raises(CheckpointError, match=r'model\.teacher_ckpt=.* is of another network: it has 0 of'):
        started(**lenient)
    named = {**lenient, 'model.teacher_ckpt': written(teacher, dataset_meta={'classes': RENAMED})}
    started(**named)
    pretrained = dict(type='Pretrained', checkpoint=named['model.teacher_ckpt'])
    with pytest.raises(DatasetError, match=r'model\.teacher\.init_cfg with .* was trained on other classes'):
        started(
            'icd-kd_res20_res8_digits',
            **{**named, 'model.teacher_ckpt': None, 'model.teacher.init_cfg': pretrained, **NAMED},
        )
    with pytest.raises(DatasetError, match=r'model\.teacher_ckpt=.* was trained on other classes'):
        started('icd-kd_res20_res8_digits', **named, **NAMED)


@pytest.mark.slow
def test_what_is_resumed_fits_in_full(started: Callable, demo_config: Callable, runner: Callable) -> None:
    run = runner(demo_config())
    run.train()
    file = Path(run.work_dir, 'epoch_1.pth')
    checkpoint = torch.load(file, weights_only=True)
    weights = checkpoint['state_dict']
    torch.save({**checkpoint, 'state_dict': {f'model.{name}': value for name, value in weights.items()}}, file)
    with pytest.raises(CheckpointError, match=r'resume=.*epoch_1\.pth is of another network: it has 0 of 53'):
        started(resume=True, **CHANGED)
    del weights['distiller.connectors.icd_student.linear.bias']
    torch.save(checkpoint, file)
    with pytest.raises(CheckpointError, match=r'it has 52 of 53 weights; not in the file: distiller\.connectors'):
        started(resume=True, **CHANGED)


def test_a_teacher_of_other_class_names(started: Callable, demo_config: Callable, written: Callable) -> None:
    weights = torch.load(demo_config().model.teacher_ckpt, weights_only=True)['state_dict']
    teacher = {'model.teacher_ckpt': written(weights, dataset_meta={'classes': RENAMED})}
    message = r"label 2 is '3' in the file and '2' in the dataset, label 3 '4' and '3', .*8 of 10 labels differ"
    with pytest.raises(DatasetError, match=message):
        started('icd-kd_res20_res8_digits', **teacher, **NAMED)
    assert '8 of 10 labels differ' in logged(
        started('icd-kd_res20_res8_digits', **teacher, **NAMED, **LISTED_NAMES).cfg
    )
    # features have no labels
    started(**teacher, **NAMED)
    # inside of a wrapper
    wrapped = demo_config('icd-kd_res20_res8_digits', **teacher, **NAMED).train_dataloader.dataset
    wrapped = dict(_delete_=True, type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=wrapped)])
    with pytest.raises(DatasetError, match=message):
        started('icd-kd_res20_res8_digits', **{**teacher, 'train_dataloader.dataset': wrapped})


@pytest.mark.parametrize('name', ['icd_res20_res8_digits', 'res8_digits'])
def test_a_student_of_other_class_names(
    name: str, started: Callable, written: Callable, weights: dict[str, Tensor]
) -> None:
    model = 'model.architecture' if 'icd' in name else 'model'
    file = written(weights, dataset_meta={'classes': DIGITS[::-1]})
    message = f'{file} was trained on other classes than train_dataloader.dataset has, in another order: label 0'
    with pytest.raises(DatasetError, match=message):
        started(name, load_from=file, **NAMED)
    with pytest.raises(DatasetError, match=message):
        started(name, **{f'{model}.init_cfg': dict(type='Pretrained', checkpoint=file), **NAMED})
    started(name, load_from=file, **NAMED, **LISTED_NAMES)
    # without its classifying layer
    backbone = dict(type='Pretrained', checkpoint=file, prefix='backbone')
    started(name, **{f'{model}.backbone.init_cfg': backbone, **NAMED})


def test_a_resumed_run_has_the_same_class_names(started: Callable, demo_config: Callable, runner: Callable) -> None:
    unvalidated = dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
    runner(demo_config(**NAMED, **unvalidated)).train()
    renamed = {name: dict(classes=RENAMED) for name in NAMED}
    message = r"training classes: label 2 is '2' in the checkpoint and '3' now, label 3 '3' and '4', "
    with pytest.raises(SettingError, match=message):
        started(resume=True, **renamed)
