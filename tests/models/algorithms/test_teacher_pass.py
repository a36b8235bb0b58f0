"""The teacher's forward pass: its precision, its hooks, and weights that change."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from mmrazor.models.task_modules import RecorderManager
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.features import feature_points

ALGORITHM = 'icd_mmrazor.models.algorithms.frozen_teacher_distill.print_log'


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
    with mock.patch(ALGORITHM) as log:
        model = algorithm(**({} if folds is None else dict(fold_teacher_norms=folds)))
        for _ in range(2):
            model(*batch(), mode='loss')
    said = [call.args[0] for call in log.call_args_list]
    assert len(said) == (folds is not None)
    assert all('fold_teacher_norms' in line for line in said)
