"""Options for many cells: who gets which, and what is refused before hours of training."""

import pytest

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.cell_options import check_options, merge_options, options_of

PAIR = 'res20_res8_digits'


def test_each_cell_gets_its_own() -> None:
    options = [
        'ab:train_cfg.max_epochs=12',
        'train_cfg.max_epochs=10',
        'model.architecture.backbone.depth=14',
        'model.teacher_ckpt=a=b:c.pth',
        'model.distiller.embed_dims=64',
        'icd+kd:model.distiller.distillers.icd.embed_dims=32',
        'student:model.architecture.head.topk=(1,)',
    ]
    common = {'model.architecture.backbone.depth=14', 'model.teacher_ckpt=a=b:c.pth', 'model.distiller.embed_dims=64'}
    assert set(options_of('ab', options)) == {'train_cfg.max_epochs=12', *common}
    assert set(options_of('icd', options)) == {'train_cfg.max_epochs=10', *common}
    assert set(options_of('icd+kd', options)) == {
        'train_cfg.max_epochs=10', *common, 'model.distiller.distillers.icd.embed_dims=32',
    }  # fmt: skip
    assert set(options_of('student', options)) == {
        'train_cfg.max_epochs=10', 'model.backbone.depth=14', 'model.head.topk=(1,)',
    }  # fmt: skip


def test_cells_of_icd_may_be_called_dcd() -> None:
    options = ['dcd:a=1', 'dcd+kd:a=2', 'a=3']
    check_options(options, ['icd', 'icd+kd'])
    assert [options_of(methods, options) for methods in ('icd', 'icd+kd', 'kd')] == [['a=1'], ['a=2'], ['a=3']]


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('kd:a=1', "for the cells of 'kd' alone, and --methods has: icd, icd.kd"),
        ('kd+icd:a=1', "for the cells of 'kd.icd' alone"),
        (':a=1', "for the cells of '' alone"),
        ('icd:=1', 'give KEY=VALUE, or METHODS:KEY=VALUE'),
        ('a', 'give KEY=VALUE'),
        ('icd:randomness.seed=1', 'its own randomness.seed; give --seeds'),
        ('work_dir=1', 'its own work_dir; leave it out'),
    ],
)
def test_options_of_no_cell(option: str, message: str) -> None:
    check_options(['icd+kd:a=1', 'a=icd:b'], ['icd', 'icd+kd'])
    with pytest.raises(SettingError, match=message):
        check_options([option], ['icd', 'icd+kd'])


def merged(methods: str, *options: str) -> dict:
    cfg = recipes.compose(PAIR, methods.split('+'))
    merge_options(cfg, methods, options_of(methods, options))
    return cfg


def test_what_fits_is_merged() -> None:
    student = merged('student', 'model.architecture.backbone.depth=14', 'model.distiller.no=1', 'val_cfg.fp16=True')
    assert (student.model.type, student.model.backbone.depth) == ('ImageClassifier', 14)
    assert 'architecture' not in student.model
    assert student.val_cfg.fp16 is True
    # not in the composed config, and taken by the class or by what it is made of
    taught = merged(
        'icd+kd',
        'model.distiller.distillers.icd.embed_dims=64',
        'model.random_teacher=True',
        'model.teacher_norm_eval=False',
        'model.architecture.backbone.base_channels=8',
        'train_cfg.val_begin=2',
        'default_hooks.logger.interval=1',
    )
    assert taught.model.distiller.distillers.icd.embed_dims == 64
    assert taught.model.teacher_norm_eval is False
    loss = 'model.distiller.losses.rrd.loss'
    replaced = merged('rrd', f'{loss}._delete_=True', f'{loss}.type=RRDLoss')
    assert replaced.model.distiller.losses.rrd.loss == dict(type='RRDLoss')
    assert merged('ab', 'train_cfg.max_epochs=3', 'ab:model.distiller.initial_epochs=2').train_cfg.max_epochs == 3


@pytest.mark.parametrize(
    ('methods', 'option', 'message'),
    [
        ('kd', 'model.distiller.initial_epochs=2', r'fit kd: .*initial_epochs=2.* METHODS:model.distiller.init'),
        ('icd+kd', 'model.distiller.embed_dims=2', 'model.distiller is a MixedDistiller, which takes no .embed_dims.'),
        ('icd+kd', 'model.distiller.distillers.kd.embed_dims=2', 'model.distiller.distillers.kd is a Feature'),
        (
            'icd',
            'model.distiller.initial_epochs=2',
            'model.distiller is a ICDDistiller, which takes no .initial_e',
        ),
        (
            'icd',
            'model.random_techer=True',
            'model is a FrozenTeacherDistill, which takes no .random_techer.',
        ),
        ('student', 'student:model.teacher_ckpt=a.pth', 'model is a ImageClassifier, which takes no .teacher_ckpt'),
        ('student', 'model.architecture.backbon.depth=8', 'takes no .backbon.'),
        ('icd', 'train_cfg.max_epoch=3', 'train_cfg is a EpochBasedTrainLoop, which takes no .max_epoch., but'),
        ('icd', 'train_cfg.max_epochs.x=3', '--cfg-options do not fit the config of icd:'),
        ('ab', 'train_cfg.max_epochs=10', r'train_cfg.max_epochs=10 and model.distiller.initial_epochs=\d+, which'),
        ('ab+kd', 'train_cfg.max_epochs=2', r'max_epochs=2 and model.distiller.distillers.ab.initial_epochs=\d+'),
    ],
)
def test_what_would_end_the_training_is_refused(methods: str, option: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        merged(methods, option)
