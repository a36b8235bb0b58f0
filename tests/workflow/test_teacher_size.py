"""The size at which a teacher gets the images: in the plan and its estimate as in the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.workflow.networks import find_teacher
from icd_mmrazor.workflow.preparation import DISTILLED, TEACHER, plan_of, write_files
from icd_mmrazor.workflow.request import Request

timm = pytest.importorskip('timm')

PUBLISHED = timm.models.get_pretrained_cfg('test_resnet').input_size[-2:]
STUDENT = {'model.teacher_preprocessor': 'student'}


@pytest.fixture
def seen() -> set[tuple[int, int]]:
    """Sizes of the images that networks of timm get."""
    sizes: set[tuple[int, int]] = set()

    def record(module: nn.Module, args: tuple) -> None:
        if type(module).__module__.startswith('timm.models.'):
            sizes.update(tuple(arg.shape[-2:]) for arg in args if getattr(arg, 'shape', [])[1:2] == (3,))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(record)
    yield sizes
    hook.remove()


@pytest.mark.parametrize(
    ('method', 'options', 'size'),
    [('icd', {}, PUBLISHED), ('icd+kd', {}, PUBLISHED), ('icd', STUDENT, (16, 16))],
    ids=['icd', 'probe', 'student'],
)
def test_weights_that_timm_published(
    method: str, options: dict, size: tuple, seen: set, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    request = Request(
        teacher='timm/test_resnet', student='res8', data=str(image_folder({'cat': 4, 'dog': 4})), method=method,
        recipe='fast', batch_size=4, image_size=16, work_dir=str(tmp_path / 'work'), cfg_options=options,
        teacher_ckpt='random',
    )  # fmt: skip
    plan = plan_of(request)
    assert plan.teacher.size is None
    write_files(plan, tmp_path)
    # a probe finds the width of the feature with an image of 32 x 32
    assert (plan.cost.teacher_size, seen - {(32, 32)}) == (size, {size})
    assert (f'images are resized to {size[0]} x {size[1]} for it' in str(plan)) == (size == PUBLISHED)
    # the run itself
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        if method == 'icd':
            cfg = Config.fromfile(tmp_path / DISTILLED)
            cfg.merge_from_dict(options)
            algorithm = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
            assert algorithm.teacher_view.size == (None if options else size)
        else:
            assert MODELS.build(Config.fromfile(tmp_path / TEACHER).model).image_size == size


@pytest.mark.parametrize(
    ('teacher', 'size', 'published'),
    [
        ('timm/test_resnet', None, PUBLISHED),
        ('timm/test_vit', (160, 160), None),
        (dict(cfg_path='timm/test_resnet', num_classes=7), None, None),
        ('res8', None, None),
    ],
)
def test_what_is_known_of_a_teacher(teacher: Any, size: tuple | None, published: tuple | None) -> None:
    found = find_teacher(teacher, 'random')
    assert (found.size, found.published_size) == (size, published)


def test_weights_that_were_trained_on_other_images(tmp_path: Path) -> None:
    cfg = dict(
        model=dict(type='TimmClassifier', model_name='test_resnet'),
        data_preprocessor=dict(mean=[0, 0, 0], std=[255, 255, 255]),
        train_dataloader=dict(dataset=dict(type='CustomDataset', pipeline=[dict(type='LoadImageFromFile')])),
    )
    state = timm.create_model('test_resnet').state_dict()
    file = tmp_path / 'teacher.pth'
    torch.save({'state_dict': state, 'meta': {'cfg': Config(cfg).pretty_text}}, file)
    for teacher, weights in ((str(file), None), ('timm/test_resnet', str(file))):
        assert find_teacher(teacher, weights).published_size is None
