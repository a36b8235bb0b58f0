"""FrozenTeacherDistill: the frozen teacher, and what it refuses."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from icd_mmrazor.errors import CheckpointError, SettingError


def test_teacher_is_seen_by_nothing_that_trains_or_saves(algorithm: Callable) -> None:
    model = algorithm()
    teacher = set(map(id, model.teacher.parameters())) | set(map(id, model.teacher.buffers()))
    walked = [*model.parameters(), *model.buffers()]
    assert teacher
    assert not teacher & set(map(id, walked))
    assert not [name for name in model.state_dict() if 'teacher.' in name and 'icd_teacher' not in name]
    assert not [name for name, module in model.named_modules() if module is model.teacher]


def test_teacher_is_frozen_in_eval_mode(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    model.teacher.dropout = nn.Dropout(0.5)
    assert model.train() is model
    assert model.training
    assert model.architecture.training
    assert not any(module.training for module in model.teacher.modules())
    before = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    losses = model(*batch(), mode='loss')
    total, _ = model.parse_losses(losses)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper.update_params(total)
    for name, tensor in model.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_teacher_computes_no_loss(algorithm: Callable, batch: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = algorithm()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('the teacher computed a loss')

    monkeypatch.setattr(model.teacher.head, 'loss', refuse)
    assert 'distill.loss_icd' in model(*batch(), mode='loss')


def test_teacher_follows_casts_and_moves(algorithm: Callable, batch: Callable) -> None:
    model = algorithm().double()
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    images, samples = batch()
    assert model(images.double(), samples, mode='loss')['distill.loss_icd'].dtype == torch.float64
    model.to('meta')
    assert {p.device.type for p in model.teacher.parameters()} == {'meta'}


def test_student_alone_predicts(algorithm: Callable, batch: Callable) -> None:
    model = algorithm().eval()
    images, samples = batch()
    predictions = model(images, samples, mode='predict')
    want = model.architecture(images).argmax(1)
    assert [p.pred_label.item() for p in predictions] == want.tolist()


def test_features_are_the_inputs_of_the_classifiers(algorithm: Callable, batch: Callable) -> None:
    model = algorithm().eval()
    images, samples = batch()
    with torch.no_grad():
        losses = model(images, samples, mode='loss')
        connectors, icd = model.distiller.connectors, model.distiller.distill_losses['loss_icd']
        s, t = (network.extract_feat(images)[-1] for network in (model.architecture, model.teacher))
        want = icd(connectors['icd_student'](s), connectors['icd_teacher'](t))
    assert losses['distill.loss_icd'].item() == pytest.approx(want.item(), rel=1e-6)


def test_stopped_distillation_leaves_the_teacher_alone(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    model.distillation_stopped = True
    model.teacher.forward = None
    assert set(model(*batch(), mode='loss')) == {'student.loss'}


def test_student_loss_can_be_left_out(algorithm: Callable, batch: Callable) -> None:
    losses = algorithm(calculate_student_loss=False)(*batch(), mode='loss')
    assert 'student.loss' not in losses
    assert losses['distill.loss_icd'].requires_grad


def test_a_distilled_student_can_teach(algorithm: Callable, network: Callable, tmp_path: Path) -> None:
    first = algorithm()
    file = tmp_path / 'distillation.pth'
    # mmrazor's own checkpoints have the teacher inside
    inside = {f'teacher.{name}': tensor for name, tensor in first.teacher.state_dict().items()}
    torch.save({'state_dict': {**first.state_dict(), **inside}}, file)
    second = algorithm(teacher='res8', teacher_ckpt=str(file))
    for name, tensor in second.teacher.state_dict().items():
        assert torch.equal(tensor, first.architecture.state_dict()[name]), name


def test_refuses_a_missing_checkpoint(algorithm: Callable, tmp_path: Path) -> None:
    for nothing in (None, ''):
        with pytest.raises(SettingError, match='teacher_ckpt='):
            algorithm(teacher_ckpt=nothing)
    with pytest.raises(CheckpointError, match=r'absent\.pth'):
        algorithm(teacher_ckpt=str(tmp_path / 'absent.pth'))


def test_refuses_a_checkpoint_of_another_network(algorithm: Callable, teacher_file: Callable) -> None:
    with pytest.raises(CheckpointError, match=r'(?s)backbone\.conv1\.weight.*\(32, 3, 3, 3\)'):
        algorithm(teacher_ckpt=teacher_file('res32x4'))
    with pytest.raises(CheckpointError, match=r'backbone\.layer1\.3\.'):
        algorithm(teacher_ckpt=teacher_file('res32'))


def test_refuses_other_numbers_of_classes(algorithm: Callable, network: Callable, teacher_file: Callable) -> None:
    with pytest.raises(CheckpointError, match='100 classes'):
        algorithm(teacher_ckpt=teacher_file('res20', 100))
    with pytest.raises(SettingError, match=r'10 classes.* 100.*num_classes'):
        algorithm(architecture=network('res8', 100))


def test_never_unpickles(algorithm: Callable, tmp_path: Path) -> None:
    trace = tmp_path / 'trace'

    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (trace,)

    plain = tmp_path / 'plain.pkl'
    plain.write_bytes(pickle.dumps({'state_dict': Hostile()}))
    zipped = tmp_path / 'zipped.pth'
    torch.save({'state_dict': Hostile()}, zipped)
    for file in (plain, zipped):
        with pytest.raises(CheckpointError, match=file.name):
            algorithm(teacher_ckpt=str(file))
    assert not trace.exists()


@pytest.mark.parametrize('setting', [{'teacher_trainable': True}, {'teacher_norm_eval': False}], ids=str)
def test_refuses_a_trained_teacher(setting: dict[str, bool], algorithm: Callable) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(SettingError, match=f'{name}={value}'):
        algorithm(**setting)
    assert algorithm(**{name: not value}).teacher is not None


def test_networks_without_a_scope_are_mmpretrains(
    algorithm: Callable, network: Callable, teacher_file: Callable, batch: Callable
) -> None:
    """As an ordinary config of mmpretrain writes them, its data_preprocessor without a type too."""
    plain = {name: network(name) for name in ('res8', 'res20')}
    for cfg in plain.values():
        del cfg['_scope_']
    model = algorithm(
        architecture=plain['res8'],
        teacher='res20',
        teacher_ckpt=teacher_file('res20'),
        data_preprocessor=dict(mean=[1.0] * 3, std=[2.0] * 3),
    )
    assert type(model.data_preprocessor).__name__ == 'ClsDataPreprocessor'
    assert 'distill.loss_icd' in model(*batch(), mode='loss')


def test_ofd_works_without_an_algorithm_of_its_own(algorithm: Callable, batch: Callable) -> None:
    recorders = dict(bn=dict(type='ModuleOutputs', source='backbone.layer3.0.bn1'))
    distiller = dict(
        type='OFDDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        connectors=dict(teacher=dict(type='OFDTeacherConnector')),
        distill_losses=dict(loss_ofd=dict(type='OFDLoss')),
        loss_forward_mappings=dict(
            loss_ofd=dict(
                s_feature=dict(recorder='bn', from_student=True),
                t_feature=dict(recorder='bn', from_student=False, connector='teacher'),
            )
        ),
    )
    losses = algorithm(distiller=distiller)(*batch(), mode='loss')
    assert losses['distill.loss_ofd'].item() > 0
