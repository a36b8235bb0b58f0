"""Losses learn the size of the training batches from the config of the run."""

from mmengine.config import Config

from icd_mmrazor import recipes
from icd_mmrazor.configuration.batch_size import tell_losses


def distiller(**settings: object) -> dict:
    return dict(losses=dict(semckd=dict(loss=dict(type='SemCKDLoss', **settings)), at=dict(loss=dict(type='ATLoss'))))


def config(distiller: object, **dataloader: object) -> Config:
    return Config(dict(train_dataloader=dataloader, model=dict(distiller=distiller)))


def test_losses_are_built_for_the_batches_of_the_run() -> None:
    cfg = config(dict(distillers=dict(one=distiller(), two=distiller(batch_size=8))), batch_size=32)
    tell_losses(cfg)
    one, two = (cfg.model.distiller.distillers[name].losses for name in ('one', 'two'))
    assert one.semckd.loss.batch_size == 32
    assert two.semckd.loss.batch_size == 8
    assert 'batch_size' not in one['at'].loss


def test_a_config_that_does_not_say_it_stays_the_same() -> None:
    for cfg in (config(distiller()), Config(dict(model=dict(distiller=distiller()))), Config(dict(model='model.py'))):
        before = cfg.pretty_text
        tell_losses(cfg)
        assert cfg.pretty_text == before


def test_changing_the_batches_of_a_composed_run_changes_the_loss() -> None:
    cfg = recipes.compose('res20_res8_digits', ['semckd'])
    cfg.train_dataloader.batch_size = 20
    tell_losses(cfg)
    assert cfg.model.distiller.losses.semckd.loss.batch_size == 20
