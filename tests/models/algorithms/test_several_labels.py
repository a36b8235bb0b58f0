"""No softmax of the logits of a head for several labels an image."""

from collections.abc import Callable

import pytest
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS

from icd_mmrazor.errors import SettingError

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
