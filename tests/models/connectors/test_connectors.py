"""Connectors: shapes and layers as published, and what they refuse."""

import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import ConvRegressor, FTParaphraser, FTTranslator, LinearProjection, VIDRegressor
from icd_mmrazor.models.connectors.pointwise_regressor import PointwiseRegressor


def kinds(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module.modules() if not list(layer.children())]


@pytest.mark.parametrize(
    ('student', 'teacher', 'layer', 'kernel', 'stride'),
    [
        ((3, 8, 8), (5, 4, 4), 'Conv2d', (3, 3), (2, 2)),
        ((3, 4, 4), (5, 8, 8), 'ConvTranspose2d', (4, 4), (2, 2)),
        ((3, 8, 8), (5, 8, 8), 'Conv2d', (1, 1), (1, 1)),
        ((3, 8, 9), (5, 7, 4), 'Conv2d', (2, 6), (1, 1)),
        ((3, 8, 8), (3, 8, 8), 'Conv2d', (1, 1), (1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize('relu', [True, False])
def test_regressor_gives_the_teachers_shape(
    student: tuple, teacher: tuple, layer: str, kernel: tuple, stride: tuple, relu: bool
) -> None:
    # a list, as a config from a file has
    cfg = dict(_scope_='mmrazor', type='ConvRegressor', student_shape=list(student), teacher_shape=teacher, relu=relu)
    regressor = MODELS.build(cfg)
    feature = regressor(torch.randn(2, *student))
    assert feature.shape == (2, *teacher)
    assert (feature >= 0).all() == relu
    assert kinds(regressor) == [layer, 'BatchNorm2d'] + ['ReLU'] * relu
    convolution = regressor.layers[0]
    assert (convolution.kernel_size, convolution.stride) == (kernel, stride)
    assert convolution.bias is not None


def test_regressor_of_ab_is_the_identity_for_equal_shapes() -> None:
    feature = torch.randn(2, 3, 4, 4)
    settings = dict(relu=False, identity_if_equal=True)
    equal = ConvRegressor((3, 4, 4), (3, 4, 4), **settings)
    assert equal(feature) is feature
    assert not list(equal.parameters())
    assert kinds(ConvRegressor((3, 4, 4), (5, 4, 4), **settings)) == ['Conv2d', 'BatchNorm2d']


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [((3, 4, 4), (5, 6, 6)), ((3, 2, 2), (5, 8, 8)), ((3, 8, 4), (5, 4, 8)), ((3, 56, 56), (5, 14, 14))],
)
def test_regressor_resizes_what_no_published_convolution_bridges(student: tuple, teacher: tuple) -> None:
    regressor = ConvRegressor(student, teacher, relu=False)
    assert kinds(regressor) == ['_Resize', 'Conv2d', 'BatchNorm2d']
    assert regressor.layers[0][1].kernel_size == (1, 1)
    assert regressor(torch.randn(2, *student)).shape == (2, *teacher)
    # a constant map stays constant
    resized = regressor.layers[0][0](torch.full((2, *student), 3.0))
    torch.testing.assert_close(resized, torch.full((2, student[0], *teacher[1:]), 3.0))


@pytest.mark.parametrize('shape', [(3,), (3, 4), (3, 0, 4), (3, 4.0, 4), (2, 3, 4, 4), 'abc', 3, None], ids=str)
def test_regressors_refuse_a_shape_that_is_not_of_a_map(shape: object) -> None:
    with pytest.raises(SettingError, match=r'student_shape=.* must be \(C, H, W\)'):
        ConvRegressor(shape, (5, 4, 4))
    with pytest.raises(SettingError, match=r'teacher_shape=.* must be \(C, H, W\)'):
        VIDRegressor((5, 4, 4), shape)


@pytest.mark.parametrize(
    'connector',
    [
        ConvRegressor((3, 4, 4), (5, 4, 4)),
        VIDRegressor((3, 4, 4), (5, 4, 4)),
        FTTranslator((3, 4, 4), (6, 4, 4)),
        FTParaphraser((3, 4, 4)),
    ],
    ids=lambda connector: type(connector).__name__,
)
@pytest.mark.parametrize('shape', [(2, 4, 4, 4), (2, 3)], ids=str)
def test_refuses_features_of_another_shape(connector: nn.Module, shape: tuple) -> None:
    with pytest.raises(SettingError, match=rf'{type(connector).__name__}\((student|teacher)_shape=\(3,.*got a feature'):
        connector(torch.randn(shape))


def test_regressor_refuses_maps_of_another_size() -> None:
    with pytest.raises(SettingError, match=r'student_shape=\(3, 4, 4\)\) got a feature of shape \(2, 3, 8, 8\)'):
        ConvRegressor((3, 4, 4), (5, 4, 4))(torch.randn(2, 3, 8, 8))


def test_vid_regressor_is_three_convolutions_of_one_pixel() -> None:
    regressor = VIDRegressor((3, 4, 4), (5, 8, 8))
    assert kinds(regressor.layers) == ['Conv2d', 'ReLU', 'Conv2d', 'ReLU', 'Conv2d']
    assert [tuple(p.shape) for p in regressor.parameters()] == [(5, 3, 1, 1), (5, 5, 1, 1), (5, 5, 1, 1)]
    feature = torch.randn(2, 3, 4, 4)
    first, second, third = (p[:, :, 0, 0] for p in regressor.parameters())
    want = third @ (second @ (first @ feature[1, :, 2, 3]).relu()).relu()
    torch.testing.assert_close(regressor(feature)[1, :, 2, 3], want)


def test_vid_regressor_averages_a_larger_map_first() -> None:
    regressor, small = VIDRegressor((3, 8, 4), (5, 4, 4)), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(regressor(small.repeat_interleave(2, dim=2)), regressor(small))


def test_paraphraser_gives_the_factor_and_the_map() -> None:
    paraphraser = MODELS.build(dict(_scope_='mmrazor', type='FTParaphraser', teacher_shape=[6, 4, 4]))
    teacher_map = torch.randn(2, 6, 4, 4)
    kept = teacher_map.clone()
    factor = paraphraser(teacher_map)
    assert factor.shape == (2, 3, 4, 4)
    assert not factor.requires_grad
    reconstruction = paraphraser.reconstruct(teacher_map)
    torch.testing.assert_close(reconstruction, paraphraser.decoder(factor))
    assert torch.equal(teacher_map, kept)
    reconstruction.sum().backward()
    assert all(p.grad is not None for p in paraphraser.parameters())


def test_paraphraser_and_translator_have_the_published_layers() -> None:
    paraphraser, translator = FTParaphraser((6,)), FTTranslator((4,), (6,))
    widths = [tuple(m.weight.shape) for m in paraphraser.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert widths == [(6, 6, 3, 3), (3, 6, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 6, 3, 3), (6, 6, 3, 3)]
    widths = [tuple(m.weight.shape) for m in translator.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [(4, 4, 3, 3), (3, 4, 3, 3), (3, 3, 3, 3)]
    for module, norms in ((paraphraser, 0), (translator, 3)):
        assert kinds(module).count('BatchNorm2d') == norms
        assert {m.negative_slope for m in module.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}
    assert translator(torch.randn(2, 4, 4, 4)).shape == paraphraser(torch.randn(2, 6, 4, 4)).shape


@pytest.mark.parametrize('rate', [0, 0.1, -1, float('nan'), float('inf'), None])
def test_factor_transfer_refuses_a_rate_that_leaves_no_channel(rate: object) -> None:
    with pytest.raises(SettingError, match=rf'FTParaphraser: rate={rate}'):
        FTParaphraser((6, 4, 4), rate=rate)
    with pytest.raises(SettingError, match=rf'FTTranslator: rate={rate}'):
        FTTranslator((6, 4, 4), (6, 4, 4), rate=rate)


def test_projection_is_a_linear_map_of_width_128() -> None:
    projection = LinearProjection(10).double()
    feature = torch.randn(3, 10).double()
    weight, bias = projection.linear.weight, projection.linear.bias
    assert projection(feature).shape == (3, 128)
    torch.testing.assert_close(projection(feature), feature @ weight.T + bias)
    assert {name for name, _ in projection.named_parameters()} == {'linear.weight', 'linear.bias'}


def test_projection_of_large_half_precision_features_does_not_overflow() -> None:
    projection = LinearProjection(4, 2)
    projection.linear.weight.data.fill_(3.0)
    with torch.autocast('cpu', dtype=torch.float16):
        embedding = projection(torch.full((1, 4), 60000.0, dtype=torch.float16))
    assert embedding.dtype == torch.float32
    assert torch.isfinite(embedding).all()


@pytest.mark.parametrize('widths', [(0, 128), (64, 0), (64, -1), (64, 1.5), (64, True)], ids=str)
def test_projection_refuses_widths_out_of_range(widths: tuple) -> None:
    with pytest.raises(SettingError, match='features='):
        LinearProjection(*widths)


@pytest.mark.parametrize('shape', [(2, 5), (2, 4, 8, 8), (4,)], ids=str)
def test_projection_refuses_features_of_another_shape(shape: tuple) -> None:
    with pytest.raises(SettingError, match='in_features=4'):
        LinearProjection(4)(torch.randn(shape))


@pytest.mark.parametrize('student', [(3, 4, 4), (3,)], ids=str)
@pytest.mark.parametrize('relu', [True, False])
def test_pointwise_regressor_keeps_the_size(student: tuple, relu: bool) -> None:
    cfg = dict(_scope_='mmrazor', type='PointwiseRegressor', student_shape=list(student), teacher_shape=(5, 2, 2))
    regressor = MODELS.build({**cfg, 'relu': relu})
    feature = regressor(torch.randn(4, *student))
    assert feature.shape == (4, 5, *student[1:])
    assert (feature >= 0).all() == relu
    assert kinds(regressor) == ['Conv2d', 'BatchNorm2d'] + ['ReLU'] * relu
    assert regressor.layers[0].bias is None


def test_pointwise_regressor_has_the_published_initialisations() -> None:
    weights = {
        each: PointwiseRegressor((200, 4, 4), (300,), initialization=each).layers[0].weight
        for each in ('torch', 'fan_out')
    }
    # uniform up to 1 / sqrt(inputs), and normal of the variance 2 / outputs
    assert weights['torch'].abs().max() <= 200**-0.5
    assert weights['torch'].std().item() == pytest.approx((3 * 200) ** -0.5, rel=0.02)
    assert weights['fan_out'].std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(student_shape=(3, 4)), r'student_shape=\(3, 4\)'),
        (dict(teacher_shape=5), 'teacher_shape=5'),
        (dict(relu=1), 'relu=1'),
        (dict(initialization='he'), "initialization='he'.*'torch', 'fan_out'"),
    ],
    ids=str,
)
def test_pointwise_regressor_refuses_settings(settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=f'PointwiseRegressor: {named}'):
        PointwiseRegressor(**{'student_shape': (3,), 'teacher_shape': (5,), **settings})


def test_pointwise_regressor_refuses_features() -> None:
    regressor = PointwiseRegressor((3,), (5,))
    with pytest.raises(SettingError, match=r'student_shape=\(3,\).*\(2, 4, 1, 1\)'):
        regressor(torch.randn(2, 4))
