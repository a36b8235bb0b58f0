"""Teacher, student and losses in one graph by torch.compile."""

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import TORCH_VERSION
from torch import nn

from icd_mmrazor.errors import SettingError

# an error if it is not one graph from the images to the losses
COMPILED = dict(backend='aot_eager', fullgraph=True)
one_graph = pytest.mark.skipif(
    TORCH_VERSION < (2, 14), reason='torch 2.10 does not trace recorders into one graph; no torch between was tried'
)


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> None:
    """They count towards the limit of one function."""
    torch.compiler.reset()


@pytest.mark.slow
def test_training_continues_without_a_compiler_that_fails(
    algorithm: Callable, teacher_file: Callable, batch: Callable
) -> None:
    def backend(*_: Any) -> None:
        raise RuntimeError('no C++ compiler on this machine')

    # in float64, where the order of sums does not show
    file = teacher_file('res8')
    model = algorithm(teacher='res8', teacher_ckpt=file, torch_compile=dict(backend=backend)).double()
    plain = algorithm(teacher='res8', teacher_ckpt=file).double()
    plain.load_state_dict(model.state_dict())
    images, samples = batch()
    want = plain.loss(images.double(), samples)
    with mock.patch('icd_mmrazor.models.algorithms.compilation.print_log') as print_log:
        got = [model.loss(images.double(), samples) for _ in range(2)]
    torch.testing.assert_close(got[0], want)
    (message,) = (call.args[0] for call in print_log.call_args_list)
    assert 'torch_compile=' in message
    assert 'no C++ compiler on this machine' in message
    assert model.torch_compile is False


def test_a_lack_of_memory_is_not_the_compilers(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(torch_compile=dict(backend='eager'))
    raised = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
    with mock.patch('torch.compile', return_value=mock.Mock(side_effect=raised)), pytest.raises(type(raised)):
        model.loss(*batch())
    assert model.torch_compile


def test_errors_that_are_not_the_compilers_are_raised(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(torch_compile=COMPILED)
    images, samples = batch()
    model.compiled_loss = lambda self, *_: self.architecture(images[:, :1], mode='tensor')
    with pytest.raises(SettingError, match=r'model\.architecture\.backbone\.conv1'):
        model.loss(images, samples)
    assert model.torch_compile == COMPILED


@pytest.mark.parametrize('options', ['max-autotune', dict(mod='max-autotune')])
def test_options_that_torch_does_not_have_are_refused(options: object, algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=r'torch_compile=.*max-autotune.*mode'):
        algorithm(torch_compile=options)


@pytest.mark.slow
def test_a_copy_of_the_model_records_for_itself(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(teacher='res8', torch_compile=dict(backend='eager', fullgraph=TORCH_VERSION >= (2, 14)))
    images, samples = batch()
    before = model.loss(images, samples)
    other = copy.deepcopy(model)
    nn.init.zeros_(other.teacher.head.fc.weight)
    nn.init.constant_(other.distiller.connectors['icd_teacher'].linear.weight, 0.5)
    changed = other.loss(images, samples)
    assert changed['distill.loss_icd'] != before['distill.loss_icd']
    torch.testing.assert_close(model.loss(images, samples)['distill.loss_icd'], before['distill.loss_icd'])
