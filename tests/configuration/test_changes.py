"""Settings of a resumed run that count as changed."""

import math
from typing import Any

import pytest
from helpers import CONFIGS
from mmengine.config import Config

from icd_mmrazor.configuration.changes import config_changes
from icd_mmrazor.configuration.stored import read_settings

DEMO = Config.fromfile(CONFIGS / 'demo' / 'icd_res20_res8_digits.py')


def changes(**options: Any) -> list[str]:
    now = DEMO.copy()
    now.merge_from_dict({name.replace('__', '.'): value for name, value in options.items()})
    return config_changes(read_settings(DEMO.pretty_text, 'then'), read_settings(now.pretty_text, 'now'))


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(work_dir='elsewhere', load_from='a.pth', resume=True, launcher='pytorch', log_level='DEBUG'),
        dict(train_dataloader__num_workers=7, val_dataloader__persistent_workers=True, val_dataloader__batch_size=7),
        dict(
            default_hooks__logger__interval=3, default_hooks__checkpoint__max_keep_ckpts=1, default_hooks__status=None
        ),
        dict(custom_hooks=[dict(type='mmengine.VisualizationHook')], env_cfg__cudnn_benchmark=False),
        dict(custom_imports=dict(imports=['icd_mmrazor', 'more']), default_scope=None, model___scope_='mmengine'),
        dict(
            model__type='mmrazor.FrozenTeacherDistill',
            optim_wrapper__optimizer__type='torch.optim.SGD',
            model__distiller__type='icd_mmrazor.models.ICDDistiller',
            custom_hooks=[dict(type='mmpretrain.engine.hooks.VisualizationHook')],
        ),
        dict(my_variable=3, default_hooks__export_student=None, default_hooks__check_numbers=None),
        dict(train_cfg__val_interval=3, test_dataloader=None, test_cfg=None, test_evaluator=None),
        dict(model__teacher_ckpt=f'/scratch/{DEMO.model.teacher_ckpt}', model__channels_last=False),
        dict(train_dataloader__dataset__data_file=f'/x/{DEMO.train_dataloader.dataset.data_file}'),
        dict(
            model__architecture__init_cfg=dict(type='Pretrained', checkpoint='x.pth'), optim_wrapper__optimizer__fused=1
        ),
    ],
)
def test_settings_without_influence(options: dict) -> None:
    assert changes(**options) == []


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (
            dict(train_cfg__max_epochs=77),
            [f'train_cfg.max_epochs: {DEMO.train_cfg.max_epochs} in the checkpoint, 77 now'],
        ),
        (
            dict(optim_wrapper__optimizer__type='torch.optim.Adam'),
            ["optim_wrapper.optimizer.type: 'SGD' in the checkpoint, 'torch.optim.Adam' now"],
        ),
        (dict(custom_hooks=[dict(type='EMAHook')]), ["custom_hooks.0.type: not set in the checkpoint, 'EMAHook' now"]),
        (
            dict(train_dataloader__dataset__data_file='other.npz', randomness__deterministic=True),
            [
                "train_dataloader.dataset.data_file: 'work_dirs/demo/digits.npz' in the checkpoint, 'other.npz' now",
                'randomness.deterministic: False in the checkpoint, True now',
            ],
        ),
        (
            dict(default_hooks__sample_memory=None),
            ["default_hooks.sample_memory.type: 'SampleMemoryHook' in the checkpoint, not set now"],
        ),
    ],
)
def test_changes_are_listed(options: dict, expected: list[str]) -> None:
    assert sorted(changes(**options)) == sorted(expected)


def test_values() -> None:
    then, now = (
        dict(model=dict(a=a, b=math.nan, c=[dict(x=x), 2], d=d * 99, e={}))
        for a, x, d in (((1, 2), 1, 'x'), ([1, 2], 2, 'y'))
    )
    first, second = config_changes(then, now)
    assert first == 'model.c.0.x: 1 in the checkpoint, 2 now'
    assert second.startswith("model.d: 'xxx")
    assert len(second) < 160
    assert config_changes(then, now, exclude=['model.d', 'model.c.0.x']) == []
    assert config_changes({}, dict(custom_hooks=None, default_hooks=None)) == []
