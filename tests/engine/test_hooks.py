"""The hooks in real runs on a small problem."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import CHANGED, CONFIGS, ROOT, logged, scalars
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from mmrazor.registry import MODELS

from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.engine import checks, hooks
from icd_mmrazor.engine.description import loss_terms
from icd_mmrazor.engine.former_hooks import PARTS
from icd_mmrazor.errors import DatasetError


@pytest.mark.slow
def test_report_says_what_is_distilled(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config('icd-kd_res20_res8_digits', **{'model.distiller.icd.alpha': 0.25})
    run: Runner = runner(cfg)
    run.train()
    text = logged(cfg)
    assert 'teacher  CIFARResNet(depth=20), 272,474 parameters' in text
    assert 'student  CIFARResNet(depth=8), 78,042 parameters' in text
    assert cfg.model.teacher_ckpt in text
    assert 'student.loss: CrossEntropyLoss() with weight 1.0' in text
    assert 'distill.loss_icd: ICDLoss(alpha=0.25, max_tau=10.0, loss_weight=1.0)' in text
    assert 'distill.loss_kd: KLDivergence() with weight 1.0' in text

    # the accuracy, counted by hand
    data, teacher, preprocess = run.val_dataloader.dataset, run.model.teacher, run.model.data_preprocessor
    images = torch.stack([data[i]['inputs'] for i in range(len(data))]).float()
    with torch.no_grad():
        right = teacher((images - preprocess.mean) / preprocess.std).argmax(1).numpy() == data.get_gt_labels()
    assert f'validation set: accuracy/top1 {100 * right.mean():.2f}' in text
    # the terms are logged under their names
    last = [line for line in scalars(cfg) if 'loss' in line][-1]
    terms = last['student.loss'] + last['distill.loss_icd'] + last['distill.loss_kd']
    assert last['loss'] == pytest.approx(terms, rel=1e-5)
    parts = last['distill.icd_contrastive'] + 0.25 * last['distill.icd_invariance']
    assert last['distill.loss_icd'] == pytest.approx(parts, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('split', 'settings', 'found'),
    [
        ('train', {'model.head.num_classes': 7}, 'labels from 0 to 9; the model has 7 classes'),
        (
            'train',
            {'model.head.num_classes': 100, 'train_dataloader.dataset.classes': list('abcdefghij')},
            '10 classes; the model has 100',
        ),
        ('val', {'val_dataloader.dataset.classes': list('abcdefghijkl')}, '12 classes; the model has 10 classes'),
        (
            'train',
            {
                'model.head.num_classes': 7,
                'train_dataloader.dataset': lambda plain: dict(type='RepeatDataset', times=2, dataset=plain),
            },
            'labels from 0 to 9; the model has 7 classes',
        ),
    ],
)
def test_a_dataset_of_other_classes_stops_a_run_at_once(
    split: str, settings: dict, found: str, demo_config: Callable, runner: Callable
) -> None:
    settings = dict(settings)
    wrap = settings.pop('train_dataloader.dataset', lambda plain: plain)
    cfg = demo_config('res8_digits', **settings)
    cfg.train_dataloader.dataset = wrap(cfg.train_dataloader.dataset)
    with pytest.raises(DatasetError, match=rf'{split}_dataloader\.dataset \(NPZDataset\) has {found}'):
        runner(cfg).train()
    assert not [line for line in scalars(cfg) if 'loss' in line]


def test_labels_for_few_of_the_classes_are_a_warning(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config('res8_digits', **{'model.head.num_classes': 100})
    runner(cfg).train()
    assert 'train_dataloader.dataset (NPZDataset) has labels up to 9 only; the model has 100 classes' in logged(cfg)


def test_sets_with_other_class_names_stop_a_run_at_once(demo_config: Callable, runner: Callable) -> None:
    names = [str(digit) for digit in range(10)]
    other = ['0', '2', '1', *names[3:]]
    cfg = demo_config('res8_digits', **{'train_dataloader.dataset.metainfo': dict(classes=names)})
    cfg.val_dataloader.dataset.metainfo = dict(classes=other)
    message = (
        r"label 1 is '1' in train_dataloader.dataset and '2' in val_dataloader.dataset, label 2 '2' and '1' "
        r'\(2 of 10 labels'
    )
    with pytest.raises(DatasetError, match=message):
        runner(cfg).train()
    assert not list(Path(cfg.work_dir).glob('*.pth'))


def test_several_labels_an_image_are_not_checked(tmp_path: Path) -> None:
    annotation = {'metainfo': {'classes': list('abc')}, 'data_list': []}
    for i, labels in enumerate(([0], [0, 2], [1])):
        annotation['data_list'].append({'img_path': f'{i}.png', 'gt_label': labels})
    file = tmp_path / 'annotation.json'
    file.write_text(json.dumps(annotation))
    dataset = DATASETS.build(dict(type='MultiLabelDataset', ann_file=str(file)))
    assert image_labels(dataset) is None


@pytest.mark.slow
def test_report_leaves_mmrazors_own_teacher_as_it_is(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config(**{'model.type': 'SingleTeacherDistill'})
    run = runner(cfg)
    weights = torch.load(cfg.model.teacher_ckpt, weights_only=True)['state_dict']
    run.train()
    for name, weight in run.model.teacher.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert 'What is being distilled' in logged(cfg)


@pytest.mark.slow
def test_a_checkpoint_is_plain_and_resumed_without_running_anything(
    demo_config: Callable, runner: Callable, tmp_path: Path
) -> None:
    run = runner(demo_config())
    run.train()
    file = Path(run.work_dir, 'epoch_1.pth')
    checkpoint = torch.load(file, weights_only=True)
    assert not [name for name in checkpoint['state_dict'] if name.startswith('teacher')]
    assert set(checkpoint['state_dict']) == set(run.model.state_dict())
    # the optimizer knows the student and the distiller only
    trained = sum(1 for p in run.model.parameters())
    assert len(checkpoint['optimizer']['param_groups'][0]['params']) == trained
    assert not checkpoint['message_hub']['log_scalars']

    # mmengine runs this text when it resumes
    trace = tmp_path / 'trace'
    checkpoint['meta']['config'] = f'open({str(trace)!r}, "w")'
    torch.save(checkpoint, file)
    cfg = demo_config(**{'train_cfg.max_epochs': 2, 'resume': True, **CHANGED})
    run = runner(cfg)
    run.train()
    assert not trace.exists()
    assert run.epoch == 2
    assert sorted(line['epoch'] for line in scalars(cfg) if 'loss' in line) == [1, 2]
    assert 'is not in the model' not in logged(cfg)
    assert 'do not match exactly' not in logged(cfg)
    teacher = torch.load(cfg.model.teacher_ckpt, weights_only=True)['state_dict']
    for name, weight in run.model.teacher.state_dict().items():
        assert torch.equal(weight, teacher[name]), name


@pytest.mark.slow
def test_the_memory_layout_stays_out_of_checkpoints(demo_config: Callable, runner: Callable) -> None:
    first = runner(demo_config())
    first.train()
    assert not first.model.architecture.backbone.conv1.weight.is_contiguous()
    file = Path(first.work_dir, 'epoch_1.pth')
    checkpoint = torch.load(file, weights_only=True)
    momenta = {i: state['momentum_buffer'] for i, state in checkpoint['optimizer']['state'].items()}
    assert momenta
    assert all(tensor.is_contiguous() for tensor in [*checkpoint['state_dict'].values(), *momenta.values()])
    for name, weight in first.model.state_dict().items():
        assert torch.equal(checkpoint['state_dict'][name], weight), name

    # as a checkpoint of another hook, or of an earlier run
    for i, momentum in momenta.items():
        if momentum.dim() == 4 and i % 2:
            checkpoint['optimizer']['state'][i]['momentum_buffer'] = momentum.to(memory_format=torch.channels_last)
    torch.save(checkpoint, file)
    for channels_last in (True, False):
        # nothing is left to train
        run = runner(demo_config(**{'resume': True, 'model.channels_last': channels_last}))
        run.train()
        state = run.optim_wrapper.optimizer.state
        for i, weight in enumerate(run.optim_wrapper.optimizer.param_groups[0]['params']):
            assert state[weight]['momentum_buffer'].stride() == weight.stride()
            assert torch.equal(state[weight]['momentum_buffer'], momenta[i])


@pytest.mark.gpu
def test_mixed_precision_run_on_a_gpu(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config(**{'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.loss_scale': 'dynamic'})
    run = runner(cfg)
    run.train()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert np.isfinite(scalars(cfg)[0]['distill.loss_icd'])


@pytest.mark.slow
def test_loss_terms_tell_stages_and_weights(demo_config: Callable) -> None:
    cfg = demo_config()
    losses = dict(
        ab=dict(
            stage='initial',
            loss=dict(type='ActivationBoundaryLoss'),
            features='last_map',
            student_connector=dict(type='ConvRegressor'),
        ),
        kd=dict(
            loss=dict(type='KLDivergence', loss_weight=0.9),
            features='logits',
            weight_schedule=dict(type='Linear', end=5),
        ),
    )
    cfg.model.distiller = dict(
        type='FeatureDistiller', losses=losses, initial_epochs=1, student_loss_weight=0.1, image_shape=(3, 16, 16)
    )
    cfg.model.data_preprocessor = cfg.data_preprocessor
    assert loss_terms(MODELS.build(cfg.model)) == [
        'student.loss: CrossEntropyLoss() with weight 1.0, times 0.1',
        'distill.loss_ab: ActivationBoundaryLoss(loss_weight=1.0), in the first 1 epochs alone',
        'distill.loss_kd: KLDivergence() with weight 0.9, times Linear from 0 to 1 in epochs 1 to 5',
    ]


def test_the_page_of_hooks_has_every_hook() -> None:
    page = (ROOT / 'docs' / 'reference' / 'hooks.md').read_text()
    rows = re.findall(r'^\| `(\w+)` \| `(\w+Hook)` \| (.*?) \|', page, re.MULTILINE)
    runtime = Config.fromfile(CONFIGS / '_base_' / 'runtimes' / 'default.py').default_hooks
    ours = {name: cls for name, cls in HOOKS.module_dict.items() if cls.__module__.startswith(f'{hooks.__name__}.')}
    for key, name, text in rows:
        assert runtime[key].type == name
        assert text == ours[name].__doc__.partition('\n')[0].replace('``', '`')
    assert {name for _, name, _ in rows} == {hook.type for hook in runtime.values()} & ours.keys()


@pytest.mark.slow
def test_a_part_that_a_config_names_replaces_that_of_the_whole(demo_config: Callable, runner: Callable) -> None:
    """As in a config of version 0.1 that is used with the runtime of this one."""
    cfg = demo_config('res8_digits', **{'default_hooks.check_resume': dict(type='CheckResumeHook', changes='list')})
    run = runner(cfg)
    run.train()
    run.train()  # the second time all parts are there
    (check,) = (hook for hook in run.hooks if isinstance(hook, checks.ProvenanceCheck))
    assert check.changes == 'list'
    # without a teacher there is no report
    assert 'distilled' not in logged(cfg)


@pytest.mark.slow
def test_a_config_that_lists_the_hooks_of_version_0_1(demo_config: Callable, runner: Callable) -> None:
    whole = runner(demo_config(**{'train_cfg.max_epochs': 2}))
    whole.train()
    former = [*PARTS, 'HookStateHook', 'StatusHook']
    for epochs in (1, 2):
        cfg = demo_config(**{'train_cfg.max_epochs': epochs, 'resume': epochs == 2})
        cfg.work_dir += '_former'
        for name in ('sanity_check', 'exact_resume'):
            cfg.default_hooks.pop(name)
        cfg.default_hooks.update({name: dict(type=name) for name in former})
        cfg.default_hooks.CheckResumeHook.changes = 'list'
        run = runner(cfg)
        run.train()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], weight), name


@pytest.mark.parametrize('tf32', [True, False])
def test_tf32_as_in_version_0_1(tf32: bool) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        HOOKS.build(dict(type='Float32PrecisionHook', tf32=tf32)).before_run(mock.Mock())
        during = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert during == ('high' if tf32 else 'highest', tf32)
