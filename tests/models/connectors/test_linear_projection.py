"""LinearProjection: a linear map in full precision, and what it refuses."""

import pytest
import torch

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models import LinearProjection


def test_is_a_linear_map_of_width_128() -> None:
    projection = LinearProjection(10).double()
    feature = torch.randn(3, 10).double()
    weight, bias = projection.linear.weight, projection.linear.bias
    assert projection(feature).shape == (3, 128)
    torch.testing.assert_close(projection(feature), feature @ weight.T + bias)
    assert {name for name, _ in projection.named_parameters()} == {'linear.weight', 'linear.bias'}


def test_large_half_precision_features_do_not_overflow() -> None:
    projection = LinearProjection(4, 2)
    projection.linear.weight.data.fill_(3.0)
    with torch.autocast('cpu', dtype=torch.float16):
        embedding = projection(torch.full((1, 4), 60000.0, dtype=torch.float16))
    assert embedding.dtype == torch.float32
    assert torch.isfinite(embedding).all()


@pytest.mark.parametrize('widths', [(0, 128), (64, 0), (64, -1), (64, 1.5), (64, True)], ids=str)
def test_refuses_widths_out_of_range(widths: tuple) -> None:
    with pytest.raises(SettingError, match='features='):
        LinearProjection(*widths)


@pytest.mark.parametrize('shape', [(2, 5), (2, 4, 8, 8), (4,)], ids=str)
def test_refuses_features_of_another_shape(shape: tuple) -> None:
    with pytest.raises(SettingError, match='in_features=4'):
        LinearProjection(4)(torch.randn(shape))
