"""Copies of a distillation, as EMAHook makes one."""

import copy
from collections.abc import Callable

import torch
from mmengine.model import MomentumAnnealingEMA


def test_a_copy_shares_the_teachers_weights_alone(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    images, samples = batch()
    before = model(images, samples, mode='loss')
    other = copy.deepcopy(model)
    assert other.teacher is not model.teacher
    for name, tensor in model.teacher.state_dict().items():
        assert other.teacher.state_dict()[name].data_ptr() == tensor.data_ptr()
    for name, tensor in model.state_dict().items():
        assert other.state_dict()[name].data_ptr() != tensor.data_ptr()
    # it records for itself
    model.distiller.connectors['icd_teacher'].linear.weight.data.zero_()
    after = other(images, samples, mode='loss')
    torch.testing.assert_close(after['distill.loss_icd'], before['distill.loss_icd'])


def test_a_copy_that_is_moved_leaves_the_teacher_where_it_was(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    averaged = MomentumAnnealingEMA(model)
    averaged.module.to('cpu', torch.float64)
    assert {p.dtype for p in averaged.module.teacher.parameters()} == {torch.float64}
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}
    images, samples = batch()
    assert averaged.module(images.double(), samples, mode='loss')['distill.loss_icd'].dtype == torch.float64
    assert model(images, samples, mode='loss')['distill.loss_icd'].dtype == torch.float32
