"""Connectors are built for the maps that the networks really give."""

import pytest
import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError

CNN = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=8, stem_channels=4, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=16),
)


def vit(size: int | tuple[int, int]) -> dict:
    arch = dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=16)
    return dict(
        type='ImageClassifier',
        backbone=dict(type='VisionTransformer', arch=arch, img_size=size, patch_size=8),
        head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=8),
    )


def fitnet(student: dict, teacher: dict, image_shape: tuple | None = None, **settings: object) -> nn.Module:
    loss = dict(type='L2Loss', normalize=False, div_element=True)
    losses = dict(fitnet=dict(loss=loss, features='map2', student_connector=dict(type='ConvRegressor')))
    return MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=student,
            teacher=teacher,
            random_teacher=True,
            distiller=dict(_scope_='mmrazor', type='FeatureDistiller', losses=losses, image_shape=image_shape),
            **settings,
        )
    )


def loss_of(algorithm: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    return algorithm.train()(torch.randn(4, 3, *size), samples, mode='loss')['distill.loss_fitnet']


@pytest.mark.parametrize(
    ('student', 'teacher', 'image_shape', 'size', 'shapes'),
    [
        # the student says its size
        (vit(48), CNN, None, (48, 48), [(8, 6, 6), (8, 24, 24)]),
        (vit((24, 48)), CNN, None, (24, 48), [(8, 3, 6), (8, 12, 24)]),
        # images are resized for the teacher
        (CNN, vit(64), (3, 32, 32), (32, 32), [(8, 16, 16), (8, 8, 8)]),
        # mmpretrain's transformers interpolate their position embeddings
        (vit(64), CNN, (3, 32, 32), (32, 32), [(8, 4, 4), (8, 16, 16)]),
        (CNN, CNN, (3, 24, 40), (24, 40), [(8, 12, 20), (8, 12, 20)]),
    ],
)
def test_shapes_are_those_of_the_images(
    student: dict, teacher: dict, image_shape: tuple | None, size: tuple[int, int], shapes: list
) -> None:
    algorithm = fitnet(student, teacher, image_shape)
    regressor = algorithm.distiller.connectors['fitnet_s_feature']
    assert [regressor.student_shape, regressor.teacher_shape] == shapes
    assert torch.isfinite(loss_of(algorithm, size))


def test_a_teacher_that_sees_the_images_of_the_student() -> None:
    algorithm = fitnet(CNN, vit(64), (3, 32, 32), teacher_preprocessor='student')
    assert algorithm.distiller.connectors['fitnet_s_feature'].teacher_shape == (8, 4, 4)
    assert torch.isfinite(loss_of(algorithm, (32, 32)))


def test_other_images_than_expected() -> None:
    with pytest.raises(SettingError, match=r'distiller\.image_shape'):
        loss_of(fitnet(CNN, CNN), (48, 48))
