"""How the cost grows, for tools/benchmarks/step_time.py: with batch size, classes, the teacher, and processes."""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import plain_loop
import step_measures as measures
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS
from runner_loop import RunnerLoop, composed, image_size, networks_of, write_images

from icd_mmrazor.errors import UserError
from icd_mmrazor.models.precision import PRECISIONS
from icd_mmrazor.recipes import BASE

BATCH_SIZES = (64, 256, 1024, 4096)
CLASSES = (100, 1000, 10_000)
TEACHERS = ('res20', 'res56', 'res110', 'wrn40-2', 'res32x4')
GATHERED = Path(__file__).with_name('gathered_loss.py')


def measure(pair: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure growth at the first of the batch sizes, in seconds.

    Args:
        pair: Whose networks, where not others are meant.
        args: The settings of step_time.py.

    Returns:
        ``batch_size``: ICD alone by batch size; ``classes``: a step of the defaults by number of classes; ``teacher``:
        a teacher's forward pass, as the plain loop has it and as ours, by network.
    """
    base, batch_size = composed(pair, args.methods, 'defaults', []), args.batch_sizes[0]
    widths = [base.model[name].head.in_channels for name in ('architecture', 'teacher')]
    alone = {size: measures.ICDAlone(size, *widths, args.device).seconds_a_step for size in BATCH_SIZES}
    teachers = {
        name: measures.interleave(forwards(name, batch_size, image_size(base), args.device), args.rounds)
        for name in TEACHERS
    }
    return {
        'pair': pair,
        'at_batch_size': batch_size,
        'batch_size': spreads(measures.interleave(alone, args.rounds)),
        'classes': spreads(step_by_classes(pair, batch_size, args)),
        'teacher': {name: spreads(seconds) for name, seconds in teachers.items()},
    }


def forwards(name: str, batch_size: int, pixels: int, device: str) -> dict[str, Callable[[], float]]:
    """Return what measures the forward pass of a teacher: plain, and ours in both precisions."""
    cfg = Config.fromfile(BASE / 'models' / f'{name}.py')[name.replace('-', '_')]
    torch.manual_seed(0)
    plain = MODELS.build(cfg).to(device).eval()
    ours = MODELS.build(cfg).to(device, memory_format=torch.channels_last).eval()
    images = torch.randn(batch_size, 3, pixels, pixels, device=device)
    laid_out = images.contiguous(memory_format=torch.channels_last)

    def run_plain() -> None:
        with torch.no_grad():
            plain_loop.feature_and_logits(plain, images)

    tasks: dict[str, Callable[[], float]] = {'plain': lambda: measures.seconds_a_call(run_plain, device)}
    for precision in ('fp32', 'bf16'):

        def run(dtype: torch.dtype | None = PRECISIONS[precision]) -> None:
            with torch.no_grad(), torch.autocast(laid_out.device.type, dtype, enabled=dtype is not None):
                ours(laid_out, mode='tensor')

        tasks[precision] = lambda run=run: measures.seconds_a_call(run, device)
    return tasks


def step_by_classes(pair: str, batch_size: int, args: argparse.Namespace) -> dict[int, list[float]]:
    before, benches = measures.backend_switches(), {}
    with tempfile.TemporaryDirectory() as folder:
        for classes in CLASSES:
            options = [f'model.{name}.head.num_classes={classes}' for name in ('architecture', 'teacher')]
            cfg = composed(pair, args.methods, 'defaults', options)
            images = Path(folder, f'{classes}.npz')
            turn = 1 + args.steps + measures.lead_in_steps(cfg.train_dataloader.num_workers, args.device)
            write_images(cfg, images, batch_size * max(args.warm_up, turn, -(-classes // batch_size)))
            weights = [network.state_dict() for network in networks_of(cfg)]
            measures.set_backend_switches(before)
            loop = RunnerLoop(cfg, images, *weights, batch_size, Path(folder, str(classes)))
            benches[classes] = measures.Bench(loop, args.steps, args.device, args.warm_up)
        seconds = measures.interleave({n: bench.seconds_a_step for n, bench in benches.items()}, args.rounds)
        measures.set_backend_switches(before)
    del benches, loop
    gc.collect()
    return seconds


def over_ranks(args: argparse.Namespace) -> dict[int, float]:
    """Measure ICD with the images of all processes as negatives.

    Args:
        args: The settings of step_time.py; the first batch size is that of each process.

    Returns:
        The seconds of the loss with its backward pass, by number of processes.

    Raises:
        UserError: The processes failed.
    """
    seconds = {}
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, 'seconds.json')
            command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', ranks]
            command += [GATHERED, args.batch_sizes[0], file]
            threads = str(max(1, torch.get_num_threads() // ranks))
            process = subprocess.run(
                list(map(str, command)),
                env={**os.environ, 'OMP_NUM_THREADS': threads},
                capture_output=True,
                text=True,
            )
            if process.returncode:
                raise UserError(f'--ranks {ranks}: the processes failed.\n{process.stderr[-2000:]}')
            seconds[ranks] = json.loads(file.read_text())
    return seconds


def spreads(seconds: dict[Any, Sequence[float]]) -> dict[Any, dict]:
    return {name: measures.spread(values) for name, values in seconds.items()}
