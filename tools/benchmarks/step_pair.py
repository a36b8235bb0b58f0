"""All contenders on one pair at one batch size, for tools/benchmarks/step_time.py."""

import argparse
import copy
import functools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plain_loop
import step_arithmetic
import step_measures as measures
from mmengine.config import Config
from runner_loop import RunnerLoop, image_size, networks_of, write_images
from torch import nn

# whose speed the limit is taken from
OPERATIONS = ('product', 'convolution')


def measure_pair(
    pair: str, batch_size: int, configs: dict[str, Config], contenders: dict, args: argparse.Namespace
) -> dict[str, Any]:
    """Measure all contenders on a pair at a batch size.

    Args:
        pair: Its name.
        batch_size: Images a step.
        configs: Of the contenders that have one, and of the pair itself under ``''``.
        contenders: Their options by name; the plain loop has None.
        args: The settings.

    Returns:
        What step_time.json holds of it.
    """
    base = configs['']
    teacher, student = networks_of(base)
    widths = [network.head.fc.in_features for network in (student, teacher)]
    icd = plain_loop.PlainICD(*widths) if 'icd' in args.methods else None
    flops = step_arithmetic.step_flops(
        teacher, student, plain_loop.feature_and_logits, icd, batch_size, image_size(base)
    )
    before = measures.backend_switches()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, 'images.npz')
        # whole batches, and enough of them for a turn
        workers = max(args.workers, *(cfg.train_dataloader.num_workers for cfg in configs.values()))
        turn = max(args.warm_up, 1 + args.steps + measures.lead_in_steps(workers, args.device))
        write_images(base, images, batch_size * max(turn, math.ceil(args.images / batch_size)))
        benches = {}
        for name in contenders:
            measures.set_backend_switches(before)
            if contenders[name] is None:
                loop = build_plain(base, images, teacher, student, batch_size, args)
            else:
                cfg = configs[name].copy()
                loop = RunnerLoop(
                    cfg, images, teacher.state_dict(), student.state_dict(), batch_size, Path(folder, name)
                )
            benches[name] = measures.Bench(loop, args.steps, args.device, args.warm_up)
        tasks = {name: bench.seconds_a_step for name, bench in benches.items()}
        if icd:
            tasks['ICD alone'] = measures.ICDAlone(batch_size, *widths, args.device).seconds_a_step
        operations = [(kind, precision) for precision in precisions(args.device) for kind in OPERATIONS]
        for operation in operations:
            tasks[operation] = functools.partial(step_arithmetic.speed, *operation, args.device)
        seconds = measures.interleave(tasks, args.rounds)
        parts = measures.interleave(
            {name: bench.seconds_of_parts for name, bench in benches.items()}, math.ceil(args.rounds / 2)
        )
        traces = {name: bench.trace() for name, bench in benches.items()}
        for bench in benches.values():
            bench.contender.close()
    measures.set_backend_switches(before)
    speeds = {
        precision: {kind: measures.spread(seconds[kind, precision]) for kind in OPERATIONS}
        for precision in precisions(args.device)
    }
    best = {precision: max(speed['median'] for speed in kinds.values()) for precision, kinds in speeds.items()}
    first = next(iter(benches))
    return {
        'pair': pair,
        'batch_size': batch_size,
        'flops': flops,
        'flops_per_second': speeds,
        'limit_seconds': {precision: sum(flops.values()) / speed for precision, speed in best.items()},
        'icd_alone_seconds': measures.spread(seconds['ICD alone']) if icd else None,
        'contenders': {
            name: {
                'steps_a_turn': bench.steps,
                'workers': bench.contender.workers,
                'seconds': measures.spread(seconds[name]),
                'ratio': measures.spread(ratios(seconds[name], seconds[first])),
                'parts': medians(parts[name]),
                'rest_share': measures.spread([turn[measures.REST] / sum(turn.values()) for turn in parts[name]]),
                'icd_alone_share': measures.spread(ratios(seconds['ICD alone'], seconds[name])) if icd else None,
                **traces[name],
            }
            for name, bench in benches.items()
        },
    }


def build_plain(
    base: Config, images: Path, teacher: nn.Module, student: nn.Module, batch_size: int, args: argparse.Namespace
) -> plain_loop.PlainLoop:
    arrays = np.load(images)
    preprocessor = base.data_preprocessor
    transform = plain_loop.transforms_of(base.train_dataloader.dataset.pipeline, preprocessor.mean, preprocessor.std)
    return plain_loop.PlainLoop(
        copy.deepcopy(teacher),
        copy.deepcopy(student),
        plain_loop.ArrayImages(arrays['images'], arrays['labels'], transform),
        args.methods,
        batch_size,
        {key: value for key, value in base.optim_wrapper.optimizer.items() if key != 'type'},
        args.workers,
        args.device,
    )


def precisions(device: str) -> list[str]:
    return ['fp32', 'tf32', 'bf16'] if device == 'cuda' else ['fp32', 'bf16']


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


def medians(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    return {part: measures.spread([turn[part] for turn in turns])['median'] for part in turns[0]}
