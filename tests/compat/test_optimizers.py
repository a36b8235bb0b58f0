"""LAMB on parameters without dimensions."""

import pytest
import torch
from mmpretrain.engine.optimizers import Lamb
from torch import nn


def trained(shape: tuple[int, ...], with_closure: bool = False) -> tuple[nn.Parameter, nn.Parameter, Lamb]:
    """Take five steps with a matrix and with a number of the given shape; gradients are clipped in some."""
    number = nn.Parameter(torch.full(shape, 0.7))
    matrix = nn.Parameter(torch.arange(6.0).view(2, 3))
    lamb = Lamb([dict(params=[matrix]), dict(params=[number], weight_decay=0.1)], lr=0.1)
    for _ in range(5):

        def loss() -> torch.Tensor:
            lamb.zero_grad()
            value = (matrix * number.reshape(())).square().sum() / 20
            value.backward()
            return value

        if with_closure:
            assert lamb.step(loss) > 0
        else:
            loss()
            lamb.step()
    return number, matrix, lamb


@pytest.mark.parametrize('with_closure', [False, True])
def test_a_scalar_is_trained_like_a_vector_of_one(with_closure: bool) -> None:
    scalar, matrix, lamb = trained((), with_closure)
    vector, other, _ = trained((1,))
    assert scalar.shape == scalar.grad.shape == ()
    assert scalar != 0.7
    torch.testing.assert_close(scalar, vector[0], rtol=0, atol=0)
    torch.testing.assert_close(matrix, other, rtol=0, atol=0)
    # training continues after a resume
    lamb.load_state_dict(lamb.state_dict())
    lamb.step()
    assert scalar.shape == ()
