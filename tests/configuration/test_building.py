"""Whatever the stack builds from a config: in our tools a wrong setting is one message that names it."""

import pickle
from collections.abc import Callable

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import Registry
from mmrazor.registry import MODELS

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.errors import CheckpointError, SettingError

THINGS = Registry('thing')


class Base:
    def __init__(self, width: int, height: int = 1) -> None:
        self.area = width * height


@THINGS.register_module()
class Thing(Base):
    def __init__(self, depth: int = 1, **kwargs: int) -> None:
        super().__init__(**kwargs)
        self.volume = depth * self.area


@THINGS.register_module()
class Box:
    def __init__(self, thing: dict) -> None:
        self.thing = THINGS.build(thing)


@pytest.mark.parametrize(
    ('cfg', 'named'),
    [
        (dict(type='Think'), "'Think'.*Thing"),
        (dict(type='ICDLoss'), "'ICDLoss'.* thing.*_scope_='mmrazor'"),
        (dict(type='no.such.Thing'), r"'no\.such\.Thing'"),
        (dict(type='Thing', width=1, heigth=2), "Thing .*'heigth'.*height"),
        (dict(type='Thing', height=1), "Thing .*'width'.*height"),
        (dict(type='Thing', width={}), r'Thing .*width.*TypeError: .*test_building\.py, line \d+'),
        (dict(type=Thing, width={}), 'Thing .*width'),
        (dict(type=Thing, heigth=1), "Thing .*'heigth'.*height"),
        (dict(width=1), 'thing .*type=.*width'),
        (dict(type=7), 'thing .*type=.*7'),
        ('Thing', "thing .*'Thing'"),
        (dict(type='Box', thing=dict(type='Think')), "'Think'.*Thing"),
        (dict(type='Box', thing=dict(type='Thing', width=1, depht=1)), "Thing .*'depht'.*depth"),
    ],
)
def test_a_wrong_setting_is_named(cfg: object, named: str) -> None:
    with pytest.raises(SettingError, match=named) as raised, explained_settings():
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
def test_what_is_raised_is_of_the_original_class_too(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explained_settings():
        THINGS.build(dict(type='Failing', error=error))
    assert isinstance(raised.value, SettingError)
    assert 'Failing' in str(raised.value)
    # as a process passes it on to another, as an object or as its class
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert pickle.loads(pickle.dumps(type(raised.value))) is type(raised.value)


def test_an_error_that_needs_more_than_a_message() -> None:
    with pytest.raises(SettingError, match='Failing'), explained_settings():
        THINGS.build(dict(type='Failing', error=OwnError(7, 'no')))


@pytest.mark.parametrize(
    'error',
    [MemoryError(), RuntimeError('CUDA out of memory.'), CheckpointError('no file'), KeyboardInterrupt()],
    ids=repr,
)
def test_errors_that_no_setting_is_to_blame_for_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, explained_settings():
        THINGS.build(dict(type='Failing', error=error))
    assert raised.value is error


def test_errors_from_elsewhere_pass() -> None:
    error = KeyError('loss')
    with pytest.raises(KeyError) as raised, explained_settings():
        raise error
    assert raised.value is error


def test_without_our_tools_nothing_changes() -> None:
    with pytest.raises(TypeError) as raised:
        THINGS.build(dict(type='Thing', width=1, heigth=2))
    assert type(raised.value) is TypeError


def test_initialisation() -> None:
    with pytest.raises(SettingError, match=r"'Kaimin'.*Kaiming"), explained_settings():
        BaseModule(dict(type='Kaimin')).init_weights()


@pytest.mark.parametrize(
    ('option', 'named'),
    [
        ('train_cfg.max_epoch=3', "train_cfg .*'max_epoch'.*max_epochs"),
        ('train_dataloader.batch_sise=3', "dataloader .*'batch_sise'.*batch_size"),
        ('train_dataloader.dataset.type=NPZDatset', "'NPZDatset'.*NPZDataset"),
        ('optim_wrapper.optimizer.type=SDG', "'SDG'.*SGD"),
        ('optim_wrapper.optimizer.momentun=0.9', "SGD .*'momentun'.*momentum"),
        ('randomness.sed=1', "randomness .*'sed'.*seed"),
        ('val_evaluator.type=Acuracy', "'Acuracy'.*Accuracy"),
        ('param_scheduler=3', 'param_scheduler .*3'),
        ('default_hooks.checkpoint=7', 'hook .*7'),
        ('default_hooks.checkpoint.intervall=7', "'intervall'.*interval"),
        ('model.distiller.icd.alfa=0.5', "ICDLoss .*'alfa'.*alpha"),
        ('model.architecture.head.in_channels=63', r'model\.architecture\.head\.fc, Linear\(in_features=63'),
        ('model.teacher.head.in_channels=63', r'model\.teacher\.head\.fc, Linear\(in_features=63'),
        ('model.distiller.icd.type=mmpretrain.CrossEntropyLoss', 'icd .*CrossEntropyLoss'),
    ],
)
def test_a_runs_sections(option: str, named: str, demo_config: Callable, runner: Callable) -> None:
    key, value = option.split('=')
    value = int(value) if value.isdecimal() else value
    cfg = demo_config(**{'model.random_teacher': True, key: value})
    with pytest.raises(SettingError, match=named), explained_settings():
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
