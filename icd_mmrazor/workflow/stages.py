"""The trainings of a distillation, one after the other in one process."""

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.runner import Runner

from icd_mmrazor.checkpoints.resuming import NUMBERED, POINTER
from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.engine.metrics import numbers_in
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.launch.run_config import load_config
from icd_mmrazor.launch.training import name_networks, train

RESULT = 'result.json'


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training.

    Args:
        name: Its name, which is that of its folder.
        config: Its config file.
        folder: The folder of its logs and checkpoints.
    """

    name: str
    config: Path
    folder: Path

    def result(self) -> dict[str, Any] | None:
        """Return its result; None if it has not ended."""
        try:
            return json.loads((self.folder / RESULT).read_text())
        except (OSError, ValueError):
            return None


def run_stage(
    stage: Stage, launcher: str, options: Mapping[str, Any] | None = None, wrapper: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run a training to its end, from where it stands; one that has ended is not run again.

    Args:
        stage: The training.
        launcher: What started the processes, as in ``tools/train.py``.
        options: Settings to change in its config.
        wrapper: ``model_wrapper_cfg`` of the process group, if it sets one.

    Returns:
        ``metrics`` of the last validation, ``checkpoint``, ``seconds`` of this start; of a distillation also
        ``teacher``, its metrics, and ``teacher_parameters``, their number.
    """
    if (result := stage.result()) is not None:
        return result
    start = time.monotonic()
    cfg = load_config(
        argparse.Namespace(
            config=str(stage.config),
            work_dir=str(stage.folder),
            cfg_options=dict(options or {}),
            launcher=launcher,
            local_rank=0,
        )
    )
    name_networks(cfg)
    if wrapper:
        cfg.model_wrapper_cfg = {**wrapper, 'find_unused_parameters': cfg.get('find_unused_parameters', False)}
    # mmengine keeps log and results of a run by this name for the life of the process
    cfg.experiment_name = f'{stage.name}_{time.time_ns()}'
    if _has_checkpoint(stage.folder):
        cfg.resume, cfg.load_from = True, None
    if is_main_process():
        print(f'\n== {stage.name}: {stage.config}', flush=True)
    runner = train(cfg, show_start=False)
    result = dict(
        metrics=_last_metrics(runner),
        teacher=numbers_in(runner.message_hub.runtime_info.get('teacher_metrics') or {}),
        checkpoint=str(runner.message_hub.get_info('last_ckpt')),
        seconds=round(time.monotonic() - start, 1),
    )
    if teacher := getattr(model_of(runner), 'teacher', None):
        result['teacher_parameters'] = sum(p.numel() for p in teacher.parameters())
    if is_main_process():
        write_json(result, stage.folder / RESULT)
    _stop_workers(runner)
    barrier()
    return result


def _has_checkpoint(folder: Path) -> bool:
    return (folder / POINTER).is_file() or any(NUMBERED.fullmatch(file.name) for file in folder.glob('*.pth'))


def _stop_workers(runner: Runner) -> None:
    """Stop the processes that read images.

    torch waits 5 s for each one that is left to the garbage collection, which closes their queues first.
    """
    for loader in (runner.train_dataloader, runner.val_dataloader):
        if hasattr(loader, '_iterator'):
            loader._iterator = None


def _last_metrics(runner: Runner) -> dict[str, float]:
    """Return the metrics of the last validation, which a resumed run reads from its checkpoint."""
    scalars = runner.message_hub.log_scalars
    found = {name.removeprefix('val/'): scalars[name].current() for name in scalars if name.startswith('val/')}
    return {name: float(value) for name, value in found.items() if name not in ('data_time', 'time')}
