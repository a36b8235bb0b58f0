"""The losses of FrozenTeacherDistill: the published trajectory, precision, layout, and heads they do not suit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA, TOOLS, TORCH_VERSION, exit_status
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.datasets.view_numbers import FirstView
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.records import recorders_of


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(channels_last=False),
        dict(teacher_cache=dict(views='first', path='outputs')),
        pytest.param(
            dict(torch_compile=dict(backend='aot_eager', fullgraph=True)),
            marks=pytest.mark.skipif(TORCH_VERSION < (2, 14), reason='see test_compilation.py'),
        ),
    ],
    ids=['defaults', 'plain', 'cached', 'compiled'],
)
def test_published_trajectory(settings: dict, network: Callable, tmp_path: Path) -> None:
    """Five SGD steps equal those of the published implementation, in every recorded quantity."""
    # graphs of other tests count towards the limit of one function
    torch.compiler.reset()
    files = {}
    for name in ('resnet8', 'wrn_16_1'):
        files[name] = tmp_path / f'{name}.pth'
        source = DATA / f'{name}_ckpt_epoch_240.pth'
        assert not exit_status(TOOLS / 'model_converters/repdistiller_to_mmpretrain.py', source, files[name])
    z = np.load(DATA / 'trajectory_icd.npz')
    torch.set_default_dtype(torch.float64)
    try:
        logits = dict(recorder='icd_logits')
        # its KD loss was recorded, not trained: a term without "loss" in its name is only logged
        kd = dict(kd=dict(preds_S=dict(**logits, from_student=True), preds_T=dict(**logits, from_student=False)))
        recorder = dict(icd_logits=dict(type='ModuleOutputs', source='head.fc'))
        with pytest.warns(UserWarning, match='statistical value'):
            model = MODELS.build(
                dict(
                    _scope_='mmrazor',
                    type='FrozenTeacherDistill',
                    architecture=network('res8', 100),
                    teacher=network('wrn16-1', 100),
                    teacher_ckpt=str(files['wrn_16_1']),
                    distiller=dict(
                        type='ICDDistiller',
                        student_recorders=recorder,
                        teacher_recorders=recorder,
                        distill_losses=dict(kd=dict(type='KLDivergence', tau=4.0)),
                        loss_forward_mappings=kd,
                    ),
                    **settings,
                )
            ).double()
        model.architecture.load_state_dict(read_checkpoint(files['resnet8'])['state_dict'])
        model.double()
        connectors = model.distiller.connectors
        for side in ('student', 'teacher'):
            linear = connectors[f'icd_{side}'].linear
            linear.weight.data.copy_(torch.from_numpy(z[f'init/embed_{side[0]}.weight']))
            linear.bias.data.copy_(torch.from_numpy(z[f'init/embed_{side[0]}.bias']))
        sgd = {name: float(z[name]) for name in ('lr', 'momentum', 'weight_decay')}
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), **sgd))
        model.train()
        if model.teacher_cache:
            images = torch.from_numpy(z['x'][0]).double()
            model.teacher_cache.open(model, FirstView(), images, dict(number=z['y'].size), tmp_path)
        for i, (x, y) in enumerate(zip(z['x'], z['y'], strict=True)):
            samples = [DataSample().set_gt_label(int(label)) for label in y]
            for j, sample in enumerate(samples):
                sample.set_metainfo(dict(view_idx=i * len(y) + j))
            losses = model(torch.from_numpy(x).double(), samples, mode='loss')
            total, log = model.parse_losses(losses)
            got = {
                'total': total,
                'ce': log['student.loss'],
                'icd': log['distill.loss_icd'],
                'kd': log['distill.kd'],
            }
            for name, value in got.items():
                assert value.item() == pytest.approx(z[f'loss/{name}'][i], rel=1e-8), (i, name)
            wrapper.update_params(total)
    finally:
        torch.set_default_dtype(torch.float32)
    if model.teacher_cache:
        assert model.teacher_cache.asked == model.teacher_cache.computed == z['y'].size
    assert model.torch_compile == settings.get('torch_compile', False), 'it was given up'
    student, icd = model.architecture, model.distiller.distill_losses['loss_icd']
    finals = {
        'conv1.weight': student.backbone.conv1.weight,
        'bn1.running_mean': student.backbone.bn1.running_mean,
        'bn1.running_var': student.backbone.bn1.running_var,
        'fc.weight': student.head.fc.weight,
        'fc.bias': student.head.fc.bias,
        'embed_s.weight': connectors['icd_student'].linear.weight,
        'embed_t.weight': connectors['icd_teacher'].linear.weight,
        'log_tau': icd.log_tau,
        'bias': icd.bias,
    }
    assert {f'final/{name}' for name in finals} == {key for key in z.files if key.startswith('final/')}
    for name, tensor in finals.items():
        want = z[f'final/{name}']
        assert np.abs(tensor.detach().numpy() - want).max() <= 1e-8 * max(np.abs(want).max(), 1e-3), name


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_losses_see_plain_features(precision: str, algorithm: Callable, batch: Callable) -> None:
    """Float32 in the usual layout, whatever the networks compute with; and nothing stays recorded."""
    recorder = dict(map=dict(type='ModuleOutputs', source='backbone.layer1'))
    mapping = dict(
        t_feature=dict(recorder='map', from_student=False), s_feature=dict(recorder='map', from_student=True)
    )
    model = algorithm(
        teacher_precision=precision,
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=recorder,
            teacher_recorders=recorder,
            distill_losses=dict(loss_it=dict(type='L2Loss')),
            loss_forward_mappings=dict(loss_it=mapping),
        ),
    )
    seen = []

    def keep(s_feature: torch.Tensor, t_feature: torch.Tensor) -> torch.Tensor:
        seen.extend((t_feature, s_feature))
        return s_feature.view(-1).sum() + t_feature.view(-1).sum()

    model.distiller.distill_losses['loss_it'].forward = keep
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
        model.loss(*batch())
    assert all(feature.dtype == torch.float32 and feature.is_contiguous() for feature in seen)
    assert seen[1].requires_grad
    assert not seen[0].requires_grad
    assert [recorder.data_buffer for recorder in recorders_of(model.distiller)] == [[], []]


def test_the_teacher_keeps_its_precision_under_the_students_autocast(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    dtypes = []
    model.teacher.head.fc.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    model.student.head.fc.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    with torch.autocast('cpu', torch.bfloat16):
        model.loss(*batch())
    assert dtypes == [torch.float32, torch.bfloat16]


def test_moving_the_model_moves_the_teacher(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    images, samples = batch()
    model.loss(images, samples)
    losses = model.double().loss(images.double(), samples)
    assert losses['distill.loss_icd'].dtype == torch.float64


FEATURE = dict(num_classes=10, in_channels=64)
HEAD = dict(type='MultiLabelLinearClsHead', **FEATURE)
MULTI_TASK = dict(type='MultiTaskHead', task_heads=dict(tags=HEAD), in_channels=64)


def network_of(head: dict) -> dict:
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8),
        neck=dict(type='GlobalAveragePooling') if head['type'] != 'CSRAClsHead' else None,
        head=head,
    )


def compared(loss: str, source: str, kind: str = 'ModuleOutputs') -> dict:
    """Return a loss between what two modules give or take, in mmrazor's own distiller."""
    inputs = dict(data_idx=0) if kind == 'ModuleInputs' else {}
    names = ('s_feature', 't_feature') if loss == 'L2Loss' else ('preds_S', 'preds_T')
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(it=dict(type=kind, source=source)),
        teacher_recorders=dict(it=dict(type=kind, source='head.fc')),
        distill_losses=dict(loss_it=dict(type=loss)),
        loss_forward_mappings=dict(
            loss_it={
                names[0]: dict(recorder='it', from_student=True, **inputs),
                names[1]: dict(recorder='it', from_student=False, **inputs),
            }
        ),
    )


ICD_KD = dict(type='ICDDistiller', kd=dict(tau=4.0))
OF_LOGITS = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence'), features='logits')))
CSRA = dict(type='CSRAClsHead', num_heads=1, lam=0.1, **FEATURE)
REFUSED = {
    'icd-kd': (HEAD, ICD_KD, r'ICDDistiller: loss_kd \(KLDivergence\)'),
    'dist': (HEAD, dict(type='ICDDistiller', kd=dict(type='DISTLoss')), r'loss_kd \(DISTLoss\)'),
    'logits': (HEAD, OF_LOGITS, r'FeatureDistiller: loss_kd \(KLDivergence\)'),
    'mixed': (HEAD, dict(type='MixedDistiller', distillers=dict(a=ICD_KD)), r'loss_kd'),
    'layer': (HEAD, compared('KLDivergence', 'head.fc'), r'ConfigurableDistiller: loss_it \(KLDivergence\)'),
    'head': (HEAD, compared('KLDivergence', 'head'), r'loss_it'),
    'loss': (HEAD, compared('KLDivergence', 'head.loss_module', kind='ModuleInputs'), r'loss_it'),
    'csra': (CSRA, compared('KLDivergence', 'head'), r'loss_it .* student .*CSRAClsHead'),
    'task': (MULTI_TASK, compared('KLDivergence', 'head.task_heads.tags.fc'), r'MultiLabelLinearClsHead'),
}


@pytest.mark.parametrize(('head', 'distiller', 'message'), REFUSED.values(), ids=REFUSED)
def test_softmaxes_of_labels_are_refused(head: dict, distiller: dict, message: str, algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=rf'{message}.*kd=None'):
        algorithm(architecture=network_of(head), distiller=distiller)


def test_the_teachers_head_counts_too(network: Callable) -> None:
    """In mmrazor's own algorithm as well."""
    model = dict(
        _scope_='mmrazor',
        type='SingleTeacherDistill',
        architecture=network('res8'),
        teacher={'_scope_': 'mmpretrain', **network_of(HEAD)},
        distiller=ICD_KD,
    )
    with pytest.raises(SettingError, match=r'teacher.*MultiLabelLinearClsHead'):
        MODELS.build(model)


ALLOWED = {
    'icd': dict(type='ICDDistiller'),
    'l2 of logits': compared('L2Loss', 'head.fc'),
    'softmax of features': compared('KLDivergence', 'head.fc', kind='ModuleInputs'),
}


@pytest.mark.parametrize('distiller', ALLOWED.values(), ids=ALLOWED)
def test_the_rest_works(distiller: dict, algorithm: Callable, batch: Callable) -> None:
    model = algorithm(architecture=network_of(HEAD), distiller=distiller)
    images, _ = batch()
    samples = [DataSample().set_gt_label([i, 9]) for i in range(len(images))]
    losses = model(images, samples, mode='loss')
    assert losses['student.loss'] > 0
    assert any(name.startswith('distill.loss') for name in losses)
