"""Whatever the stack builds from a config: a wrong setting is one message."""

import pickle
from collections.abc import Callable

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import Registry
from mmrazor.registry import MODELS

from icd_mmrazor.configuration.building import arguments_of
from icd_mmrazor.errors import SettingError, did_you_mean

THINGS = Registry('thing')


class Base:
    def __init__(self, width: int, height: int = 1) -> None:
        self.area = width * height


@THINGS.register_module()
class Thing(Base):
    def __init__(self, depth: int = 1, **kwargs: int) -> None:
        super().__init__(**kwargs)
        self.volume = depth * self.area


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='Think'), r"type='Think' is not registered \(thing\)\. Close to it: Thing\. Modules of your own"),
        (dict(type='no.such.Thing'), r"type='no\.such\.Thing' is not registered"),
        (dict(type='Thing', width=1, heigth=2), "Thing has no setting 'heigth'. Close to it: height"),
        (dict(type='Thing', height=1), "Thing needs 'width'; found are height"),
        (
            dict(type='Thing', width={}),
            r'Thing\(width=\{\}\) cannot be made\. TypeError: .*test_building\.py, line \d+',
        ),
        (dict(type=Thing, width={}), r'Thing\(width=\{\}\) cannot be made'),
        (dict(width=1), r'a thing is built from dict\(type=\.\.\., \.\.\.\), found'),
        (dict(type=7), 'a thing is built from'),
        ('Thing', "a thing is built from .* found 'Thing'"),
        (dict(type='Thing', width=dict(type='Nothing')), "type='Nothing' in Thing is not registered"),
    ],
)
def test_what_cannot_be_built(cfg: object, message: str) -> None:
    with pytest.raises(SettingError, match=message) as raised:
        THINGS.build(cfg)
    assert raised.value.__cause__ is not None


class OwnError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)


@THINGS.register_module()
class Failing:
    def __init__(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize(
    'error',
    [KeyError('width'), TypeError('no'), AssertionError(), IndexError(7), FileNotFoundError(2, 'no file', 'a')],
    ids=lambda error: type(error).__name__,
)
def test_whoever_catches_what_was_raised_catches_it(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        THINGS.build(dict(type='Failing', error=error))
    assert isinstance(raised.value, SettingError)
    assert str(raised.value).startswith('Failing(error=')
    # as a process hands it on to another
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    with pytest.raises(KeyError, match=r"^type='Think' is not registered"):
        THINGS.build(dict(type='Think'))


def test_an_error_that_wants_more_than_a_message() -> None:
    with pytest.raises(SettingError, match=r'Failing\(error=.*cannot be made'):
        THINGS.build(dict(type='Failing', error=OwnError(7, 'no')))


def test_what_can_be_built_is_built() -> None:
    assert THINGS.build(dict(type='Thing', depth=2, width=3, height=4)).volume == 24


def test_names() -> None:
    assert arguments_of(Thing) == ['depth', 'width', 'height']
    assert arguments_of(None) == []
    assert did_you_mean('lrr', ['lr', 'momentum']) == ' Did you mean lr?'
    assert did_you_mean('x', ['lr', 'momentum']) == ' Available: lr, momentum.'
    assert did_you_mean('x', []) == ''


def test_initialisation() -> None:
    with pytest.raises(SettingError, match=r"type='Kaimin' in BaseModule is not registered\. Close to it: Kaiming"):
        BaseModule(dict(type='Kaimin')).init_weights()


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('train_cfg.max_epoch=3', "train_cfg has no setting 'max_epoch'. Close to it: max_epochs"),
        ('train_dataloader.batch_sise=3', "dataloader has no setting 'batch_sise'. Close to it: batch_size"),
        ('train_dataloader.dataset.type=NPZDatset', 'Close to it: NPZDataset'),
        ('optim_wrapper.optimizer.type=SDG', "type='SDG' in optim_wrapper is not registered. Close to it: SGD"),
        ('randomness.sed=1', "randomness has no setting 'sed'. Close to it: seed"),
        ('val_evaluator.type=Acuracy', 'Close to it: Accuracy'),
        ('param_scheduler=3', 'param_scheduler=3 cannot be made'),
        ('default_hooks.checkpoint=7', 'default_hooks.* cannot be made'),
        ('model.architecture.head.in_channels=63', r'fail in model\.architecture\.head\.fc, Linear\(in_features=63'),
        ('model.teacher.head.in_channels=63', r'fail in model\.teacher\.head\.fc, Linear\(in_features=63'),
        ('model.distiller.icd.type=KLDivergence', r'fail in model\.distiller\.distill_losses\.loss_icd'),
    ],
)
def test_a_runs_sections(option: str, message: str, demo_config: Callable, runner: Callable) -> None:
    key, value = option.split('=')
    value = int(value) if value.isdecimal() else value
    cfg = demo_config(**{'model.random_teacher': True, key: value})
    with pytest.raises(SettingError, match=message):
        runner(cfg).train()


def test_a_pass_that_loses_a_connection_or_memory_stays_what_it_is(network: Callable, batch: Callable) -> None:
    plain = dict(
        _scope_='mmrazor', type='FrozenTeacherDistill', random_teacher=True, distiller=dict(type='ICDDistiller')
    )
    for error in (torch.OutOfMemoryError('no memory'), KeyboardInterrupt()):
        model = MODELS.build({**plain, 'architecture': network('res8'), 'teacher': network('res8')})

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        model.architecture.register_forward_pre_hook(fail)
        with pytest.raises(type(error)):
            model.loss(*batch(2))
