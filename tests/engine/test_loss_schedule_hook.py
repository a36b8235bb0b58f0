"""Two stages in one run, and a run that is resumed in each."""

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import run_python, scalars
from mmengine.config import Config
from mmengine.runner import Runner

from icd_mmrazor import recipes
from icd_mmrazor.configuration.changes import config_changes
from icd_mmrazor.errors import SettingError


@pytest.fixture
def staged(demo_config: Callable) -> Callable[..., Config]:
    """Return the demo's config with factor transfer: two epochs for the paraphraser, two for the student."""

    def config(**options: object) -> Config:
        cfg = demo_config()
        cfg.model.distiller = Config.fromfile(Path(__file__).parents[2] / 'configs/_base_/methods/ft.py').ft
        cfg.model.distiller.update(initial_epochs=2, image_shape=(3, 16, 16), initial_lr=0.02)
        # nothing random that a resumed run would draw again
        cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
        cfg.param_scheduler.update(begin=2, milestones=[1])
        cfg.merge_from_dict({'train_cfg.max_epochs': 4, 'train_cfg.val_interval': 9, **options})
        return cfg

    return config


class StoppedError(Exception):
    """The run was ended from outside."""


def train(run: Runner, stop_after: int | None = None) -> list[dict[str, torch.Tensor]]:
    """Train, perhaps only some epochs of all; return the weights before the first and after every epoch."""
    weights, call_hook = [], run.call_hook

    def spy(fn_name: str, **kwargs: object) -> None:
        if fn_name == 'before_train_epoch' and run.epoch == stop_after:
            raise StoppedError
        call_hook(fn_name, **kwargs)
        if fn_name in ('before_train', 'after_train_epoch'):
            weights.append({name: p.detach().clone() for name, p in run.model.named_parameters()})

    run.call_hook = spy
    with contextlib.suppress(StoppedError):
        run.train()
    return weights


@pytest.mark.slow
def test_each_stage_trains_its_own_part_and_a_resumed_run_ends_the_same(staged: Callable, runner: Callable) -> None:
    cfg = staged()
    whole = train(runner(cfg))
    names = set(whole[0])
    moved = [
        {name for name in names if not torch.equal(before[name], after[name])}
        for before, after in itertools.pairwise(whole)
    ]
    paraphraser = {name for name in names if 'connectors.paraphraser' in name}
    assert moved == [paraphraser] * 2 + [names - paraphraser] * 2

    # stopped after each epoch
    for epochs in (1, 2, 3, 4):
        part = Config({**cfg.to_dict(), 'work_dir': f'{cfg.work_dir}_parts', 'resume': epochs > 1})
        resumed = train(runner(part), stop_after=epochs)
        assert len(resumed) == 2
        for name, weight in resumed[-1].items():
            torch.testing.assert_close(weight, whole[epochs][name], msg=name)


@pytest.mark.slow
def test_the_rates_of_the_stages(staged: Callable, runner: Callable) -> None:
    run = runner(staged())
    rates, states = [], []  # before each step
    train_step = run.model.train_step

    def step(data: dict, optim_wrapper: object) -> dict:
        rates.append(optim_wrapper.param_groups[0]['lr'])
        states.append(len(optim_wrapper.optimizer.state))
        return train_step(data, optim_wrapper)

    run.model.train_step = step
    run.train()
    batches = len(run.train_dataloader)
    assert rates[::batches] == pytest.approx([0.02, 0.02, 0.05, 0.005])
    # the optimizer begins the main stage without the momentum of the initial one
    assert states[batches * 2] == 0 < states[batches]
    # and the log shows the losses of its stage alone
    for line in scalars(run):
        if 'loss' in line:
            assert ('distill.loss_paraphraser' in line) == (line['epoch'] <= 2)
            assert line['loss'] == pytest.approx(
                sum(value for name, value in line.items() if '.loss' in name), rel=1e-5
            )


@pytest.mark.slow
def test_no_epoch_left_for_the_main_stage(staged: Callable, runner: Callable) -> None:
    cfg = staged(**{'train_cfg.max_epochs': 2, 'param_scheduler.begin': 0})
    with pytest.raises(SettingError, match=r'max_epochs=2 .*initial_epochs=2'):
        runner(cfg).train()


def test_configs_of_0_1_have_other_names_for_it() -> None:
    former = dict(default_hooks=dict(initial_stage=dict(type='InitialStageHook')))
    assert config_changes(former, dict(default_hooks=dict(loss_schedule=dict(type='LossScheduleHook')))) == []
    assert config_changes(former, dict(default_hooks=dict())) != []


@pytest.mark.slow
def test_a_schedule_that_starts_within_the_initial_stage(
    staged: Callable, runner: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    run = runner(staged(**{'param_scheduler.begin': 0}))
    run.logger.addHandler(caplog.handler)
    train(run, stop_after=0)
    assert 'param_scheduler begins after 0 epochs, within the initial stage of 2' in caplog.text


@pytest.mark.slow
def test_a_schedule_that_waits_for_a_longer_initial_stage(staged: Callable, runner: Callable) -> None:
    """The initial stage of a composed config was shortened, and nothing else."""
    cfg = staged(**{'model.distiller.initial_epochs': 1})
    with pytest.raises(SettingError, match=r'begins after 2 epochs, .*initial_epochs=1.*param_scheduler\.begin=1'):
        runner(cfg).train()


@pytest.mark.slow
def test_a_training_that_counts_iterations_has_no_initial_stage(staged: Callable, runner: Callable) -> None:
    cfg = staged()
    cfg.train_cfg, cfg.param_scheduler = dict(by_epoch=False, max_iters=8), None
    with pytest.raises(SettingError, match=r'by_epoch=True'):
        runner(cfg).train()


@pytest.mark.slow
def test_several_processes_train_one_paraphraser(tmp_path: Path) -> None:
    """What the main stage freezes must be known to DDP as trained."""
    cfg = recipes.compose('res20_res8_digits', ['ft'])
    cfg.model.update(teacher_ckpt=None, random_teacher=True)
    cfg.dump(tmp_path / 'ft.py')
    script = Path(__file__).with_name('staged_training.py')
    process = run_python(
        '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', 2, script, tmp_path / 'ft.py'
    )
    assert process.returncode == 0, process.stderr
    # torch 2.10's gloo prints its own lines before
    assert process.stdout.splitlines()[-1] == '[]'
