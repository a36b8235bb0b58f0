"""FrozenTeacherDistill: the frozen teacher, its forward pass, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.networks.features import feature_points

FC = dict(fc=dict(type='ModuleOutputs', source='head.fc'))
KD = dict(
    type='ConfigurableDistiller',
    student_recorders=FC,
    teacher_recorders=FC,
    distill_losses=dict(loss_kl=dict(type='KLDivergence')),
    loss_forward_mappings=dict(
        loss_kl=dict(preds_S=dict(from_student=True, recorder='fc'), preds_T=dict(from_student=False, recorder='fc'))
    ),
)


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
    for distiller in (dict(type='ICDDistiller', kd=dict(tau=4.0)), KD):
        with pytest.raises(SettingError, match=r'10 classes.* 100'):
            algorithm(architecture=network('res8', 100), distiller=distiller)


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


SETTINGS = 'icd_mmrazor.models.algorithms.several_teachers.print_log'


def changed_by_copy(teacher: nn.Module) -> None:
    with torch.no_grad():
        teacher.backbone.conv1.weight.copy_(teacher.backbone.conv1.weight * 1.5)


def changed_by_data(teacher: nn.Module) -> None:
    teacher.backbone.conv1.weight.data.mul_(1.5)


def changed_by_new_data(teacher: nn.Module) -> None:
    weight = teacher.backbone.conv1.weight
    weight.data = weight.data * 1.5


def changed_by_file(teacher: nn.Module) -> None:
    teacher.load_state_dict({name: tensor * 1.5 for name, tensor in teacher.state_dict().items()})


def changed_layer(teacher: nn.Module) -> None:
    teacher.head.fc = nn.Linear(64, 10)


def recorded(teacher: nn.Module, run: Callable, images: Tensor) -> list[Tensor]:
    """Return all features of a teacher, as mmrazor's recorders see them."""
    points = feature_points(teacher)
    places = [*points.maps, *points.preactivations, points.pooled, points.logits]
    manager = RecorderManager({f'{i}': dict(type=f'mmrazor.{p.type}', source=p.source) for i, p in enumerate(places)})
    manager.initialize(teacher)
    with manager, torch.no_grad():
        run(images)
    return [manager.get_recorder(f'{i}').get_record_data(p.record_idx, p.data_idx) for i, p in enumerate(places)]


@pytest.mark.parametrize('teacher', ['res20', 'wrn16-1', 'vgg8'])
def test_float32_is_what_the_teacher_computes(teacher: str, algorithm: Callable, batch: Callable) -> None:
    """Even while the student is under autocast."""
    model, (images, _) = algorithm(teacher=teacher), batch()
    want = recorded(model.teacher, lambda x: model.teacher(x, mode='tensor'), images)
    with torch.autocast('cpu', torch.bfloat16):
        got = recorded(model.teacher, model.run_teacher, images)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_bfloat16_is_close(algorithm: Callable, batch: Callable) -> None:
    model, (images, _) = algorithm(teacher='wrn16-1', teacher_precision='bf16'), batch()
    want = recorded(model.teacher, lambda x: model.teacher(x, mode='tensor'), images)
    for a, b in zip(recorded(model.teacher, model.run_teacher, images), want, strict=True):
        assert not torch.equal(a.float(), b)
        assert (a - b).norm() <= 0.03 * b.norm()
    assert {weight.dtype for weight in model.teacher.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    'change', [changed_by_copy, changed_by_data, changed_by_new_data, changed_by_file, changed_layer]
)
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_teacher_that_changes_counts(change: Callable, precision: str, algorithm: Callable, batch: Callable) -> None:
    model, (images, samples) = algorithm(teacher_precision=precision).train(), batch()
    logits: list[Tensor] = []
    before = model(images, samples, mode='loss')['distill.loss_icd']
    change(model.teacher)
    model.teacher.head.fc.register_forward_hook(lambda *args: logits.append(args[-1].float()))
    after = model(images, samples, mode='loss')['distill.loss_icd']
    assert (before.item() != after.item()) is (change is not changed_layer)
    with torch.no_grad():
        model.teacher(images, mode='tensor')
    got, want = logits
    assert (got - want).abs().max() <= (0 if precision == 'fp32' else 0.05) * want.abs().max()


def test_precisions_that_do_not_exist_are_refused(algorithm: Callable, batch: Callable) -> None:
    with pytest.raises(SettingError, match=r"teacher_precision='int8'.*fp32.*bf16.*fp16"):
        algorithm(teacher_precision='int8')
    with pytest.raises(SettingError, match=r'model\.teacher_precision: float16'):
        algorithm(teacher_precision='fp16')(*batch(), mode='loss')


@pytest.mark.parametrize('folds', [None, True, False])
def test_folding_of_norms_has_no_effect(folds: bool | None, algorithm: Callable, batch: Callable) -> None:
    """Configs of version 0.1 may ask for it."""
    with mock.patch(SETTINGS) as log:
        model = algorithm(**({} if folds is None else dict(fold_teacher_norms=folds)))
        for _ in range(2):
            model(*batch(), mode='loss')
    said = [call.args[0] for call in log.call_args_list]
    assert len(said) == (folds is not None)
    assert all('fold_teacher_norms' in line for line in said)


ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=16)
VIT = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=16),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16),
)
CONVNEXT = dict(
    type='ImageClassifier',
    backbone=dict(type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 8, 16])),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
)
OPTIMIZER = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    constructor='LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.5, bias_decay_mult=0.0, custom_keys={'.cls_token': dict(decay_mult=0.0)}),
)


def groups(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Return learning rate and weight decay of each parameter."""
    wrapper = build_optim_wrapper(model, OPTIMIZER)
    return {group['param_name']: (group['lr'], group['weight_decay']) for group in wrapper.optimizer.param_groups}


@pytest.mark.parametrize('student', [VIT, CONVNEXT], ids=['ViT', 'ConvNeXt'])
def test_a_student_has_the_rates_that_it_has_alone(student: dict, algorithm: Callable) -> None:
    alone = groups(MODELS.build({'_scope_': 'mmpretrain', **student}))
    model = algorithm(architecture=dict(student), distiller=dict(type='ICDDistiller', kd=dict(tau=4.0)))
    together = groups(model)
    assert len({rate for rate, _ in alone.values()}) > 3
    of_student = {name: group for name, group in together.items() if name.startswith('architecture.')}
    assert of_student == {f'architecture.{name}': group for name, group in alone.items()}
    rest = {name: rate for name, (rate, _) in together.items() if name not in of_student}
    assert {*rest} == {name for name, _ in model.named_parameters() if name.startswith('distiller.')}
    assert {*rest.values()} == {1e-3}


def test_a_network_without_depths_is_refused(algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=r'CIFARResNet.*optim_wrapper\.constructor'):
        groups(algorithm())
