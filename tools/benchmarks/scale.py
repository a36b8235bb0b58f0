#!/usr/bin/env python3
"""Estimate what distillations on ImageNet cost on 8 and 64 GPUs, from parts that are measured on a CPU.

"measure" counts the operations and bytes of each operator of teacher and student, times and counts the loss of ICD with
the images of several processes as negatives, what they exchange, the input and the teacher cache, and writes them to a
file. "predict" assumes a GPU of which the data sheet is known, and prints the tables of docs/scale.md.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.command_line import run

import scale_parts
import torch
from table import markdown
from trainings import machine

IMAGES, EPOCHS, VIEWS = 1_281_167, 100, 10
BUCKET = 25 * 2**20  # torch's DDP sends gradients in buckets of this size
BLOCK = re.compile(r'(<!-- scale: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
PAIRS = {
    'ResNet-50 → MobileNetV2': ('ResNet-50', 'MobileNetV2'),
    'DINOv2 ViT-L/14 at 224 → ResNet-50': ('DINOv2 ViT-L/14 at 224', 'ResNet-50'),
    'DINOv2 ViT-L/14 at 518 → ResNet-50': ('DINOv2 ViT-L/14 at 518', 'ResNet-50'),
}


@dataclass(frozen=True)
class Machine:
    """A GPU as its data sheet has it, and what is assumed of it and of the machine around it.

    Args:
        half, single: Operations per second, in bf16 (dense) and in float32.
        memory: Bytes per second of the memory.
        links: Bytes per second of an all-reduce within a machine.
        network: Bytes per second that a machine exchanges with others.
        of_flops, of_memory: The fraction of them that an operator reaches.
        launch: Seconds that the CPU takes for an operator.
        latency: Seconds of an exchange, within a machine and between machines.
        cores: Of the CPU, for each GPU, as fast as those where the input was measured.
    """

    half: float = 989e12
    single: float = 67e12
    memory: float = 3.35e12
    links: float = 370e9
    network: float = 300e9
    of_flops: float = 0.8
    of_memory: float = 0.7
    launch: float = 20e-6
    latency: tuple[float, float] = (30e-6, 100e-6)
    cores: float = 12

    def compute(self, operators: Sequence[Sequence[float]], images: int, single: bool = False) -> float:
        """Return the seconds of operators (operations, bytes in float32, calls): each waits for one of the two."""
        speed, size = (self.single, 1.0) if single else (self.half, 0.5)
        speed, memory = self.of_flops * speed, self.of_memory * self.memory / size
        return images * sum(calls * max(flops / speed, moved / memory) for flops, moved, calls in operators)

    def exchange(self, moved: float, gpus: int) -> float:
        """Return the seconds in which each of some GPUs sends and gets its part of some bytes (all-gather)."""
        if gpus == 1:
            return 0.0
        rate, latency = (self.links, self.latency[0]) if gpus <= 8 else (min(self.links, self.network), self.latency[1])
        return latency + (gpus - 1) / gpus * moved / rate

    def all_reduce(self, moved: float, gpus: int) -> float:
        """Return the seconds of an all-reduce: every byte travels twice."""
        return self.exchange(2 * moved, gpus)


H100 = Machine()
MACHINES = {
    'A100 80 GB': Machine(half=312e12, single=19.5e12, memory=2.039e12, links=240e9),
    'H100 SXM': H100,
    'H200 SXM': Machine(memory=4.8e12),
}
ETHERNET = replace(H100, network=10e9)
RTX_3090 = Machine(half=71e12, memory=936e9)
# GPU, network, pass, images per second: docs/scale.md has the sources
PUBLISHED = (
    ('A100 80 GB', MACHINES['A100 80 GB'], 'ResNet-50', 'training', 2470),
    ('RTX 3090', RTX_3090, 'ResNet-50', 'training', 1218),
    ('RTX 3090', RTX_3090, 'MobileNetV2', 'training', 2313),
    ('RTX 3090', RTX_3090, 'ResNet-50', 'forward', 3730),
    ('RTX 3090', RTX_3090, 'MobileNetV2', 'forward', 9888),
    ('RTX 3090', RTX_3090, 'DINOv2 ViT-L/14 at 224', 'forward', 359),
    ('RTX 3090', RTX_3090, 'DINOv2 ViT-L/14 at 518', 'forward', 58.8),
)


def loss_operators(own: int, negatives: int) -> list[list[float]]:
    """Count the operators of ICD with its gradients, without computing it."""
    with torch.device('meta'):
        return scale_parts.operators(scale_parts.similarities(own, negatives))


def step(
    parts: dict[str, Any], pair: str, gpus: int, batch: int, on: Machine, cached: bool = False, gather: bool = False
) -> dict[str, float]:
    """Predict the seconds of a step with ``--amp bf16``, and of its parts, with a batch for each GPU.

    Args:
        parts: What :func:`scale_parts.measure` found.
        pair: One of ``PAIRS``.
        gpus: How many, 8 in a machine.
        batch: Images of a GPU.
        on: The GPU and the machine.
        cached: Whether all of the teacher's outputs are in a teacher cache.
        gather: Whether the images of all GPUs are the negatives.

    Returns:
        ``teacher``, ``student`` and ``loss`` on the GPU; ``input`` of the CPU cores; ``host``, the training process;
        ``gather`` and ``gradients``, the exchange that the GPU waits for; ``step``.
    """
    (teacher, student), images = (parts['networks'][name] for name in PAIRS[pair]), parts['images']
    similarities = loss_operators(batch, batch * gpus if gather else batch)
    training, forward = student['training']['operators'], [] if cached else teacher['forward']['operators']
    found = dict(
        teacher=on.compute(forward, batch),
        student=on.compute(training, batch) + 20 * student['parameters'] / on.of_memory / on.memory,
        loss=on.compute(similarities, 1, single=True),
        input=batch * images['seconds'] / on.cores,
    )
    operators = sum(calls for group in (forward, training, similarities) for *_, calls in group)
    found['host'] = operators * on.launch + batch * (images['received'] + on.launch)
    found['host'] += batch * parts['cache']['seconds'] if cached else 0
    rows = 2 * 4 * scale_parts.WIDTH * batch * gpus  # two embeddings of each image; their gradients return
    found['gather'] = on.exchange(rows, gpus) + on.all_reduce(rows, gpus) + on.all_reduce(8, gpus) if gather else 0.0
    gradients, backward = 4 * student['parameters'], found['student'] * 2 / 3
    found['gradients'] = max(
        on.all_reduce(min(gradients, BUCKET), gpus), on.all_reduce(gradients, gpus) - backward if gpus > 1 else 0.0
    )
    work = (
        max(found['teacher'] + found['student'] + found['loss'], found['host']) + found['gather'] + found['gradients']
    )
    return {**found, 'step': max(work, found['input'])}


def hours(seconds: float, gpus: int, batch: int, epochs: int = EPOCHS) -> float:
    """Return the hours of some epochs of ImageNet, by the seconds of a step."""
    return epochs * math.ceil(IMAGES / (gpus * batch)) * seconds / 3600


def ms(seconds: float) -> str:
    return f'{1e3 * seconds:.3g}'


def costs(parts: dict[str, Any]) -> list[list[str]]:
    names = ['teacher', 'student', 'host', 'gradients', 'input', 'step']
    rows = [['', 'GPUs x batch', 'teacher cache', *names, 'images/s', 'hours', 'GPU-hours']]
    for pair in PAIRS:
        for gpus, batch in (8, 256), (64, 32), (64, 256):
            for cached in False, True:
                found = step(parts, pair, gpus, batch, H100, cached)
                time = hours(found['step'], gpus, batch)
                row = [pair, f'{gpus} x {batch}', 'full' if cached else 'none', *(ms(found[name]) for name in names)]
                rows.append([*row, f'{gpus * batch / found["step"]:,.0f}', f'{time:.3g}', f'{gpus * time:.3g}'])
    return rows


def hardware(parts: dict[str, Any]) -> list[list[str]]:
    head = ['', 'GPU', 'no cache', 'cache', 'no cache, input for free', 'cache, input for free']
    rows = [[*head, f'filling a cache of {VIEWS} views']]
    for pair, (teacher, _) in PAIRS.items():
        for name, on in MACHINES.items():
            free = replace(on, cores=math.inf)
            found = [step(parts, pair, 8, 256, m, cached)['step'] for m in (on, free) for cached in (False, True)]
            forward = on.compute(parts['networks'][teacher]['forward']['operators'], 256)
            found_hours = [8 * hours(seconds, 8, 256) for seconds in found]
            fill = 8 * hours(max(forward, 256 * parts['images']['seconds'] / on.cores), 8, 256, VIEWS)
            rows.append([pair, name, *(f'{value:.3g}' for value in (*found_hours, fill))])
    return rows


def published(parts: dict[str, Any]) -> list[list[str]]:
    rows = [['', 'network', 'pass', 'published, images/s', 'predicted', 'predicted / published']]
    for name, on, network, kind, rate in PUBLISHED:
        ours = 1 / on.compute(parts['networks'][network][kind]['operators'], 1)
        rows.append([name, network, kind, f'{rate:,}', f'{ours:,.0f}', f'{ours / rate:.2f}'])
    return rows


def negatives(parts: dict[str, Any]) -> list[list[str]]:
    head = ['GPUs x batch', 'negatives', 'memory of the loss, GB', 'loss', 'gather, InfiniBand', 'gather, Ethernet']
    rows = [[*head, 'gradients, Ethernet', 'share of the step, InfiniBand', 'share, Ethernet']]
    for gpus, batch in (1, 256), (8, 256), (64, 256), (8, 1024), (64, 1024), (8, 4096), (64, 4096):
        row = [f'{gpus} x {batch}', f'{gpus * batch:,}', f'{scale_parts.MATRICES * 4 * batch**2 * gpus / 1e9:.2g}']
        near, far = (step(parts, next(iter(PAIRS)), gpus, batch, on, gather=True) for on in (H100, ETHERNET))
        row += [ms(value) for value in (near['loss'], near['gather'], far['gather'], far['gradients'])]
        for found in near, far:
            work = sum(found[name] for name in ('teacher', 'student', 'loss', 'gather', 'gradients'))
            row.append(f'{(found["loss"] + found["gather"]) / work:.1%}')
        rows.append(row)
    return rows


TABLES: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = dict(
    published=published, costs=costs, hardware=hardware, negatives=negatives
)


def filled(page: str, parts: dict[str, Any]) -> str:
    """Return a page with its tables replaced."""
    return BLOCK.sub(lambda block: f'{block[1]}\n{markdown(TABLES[block[2]](parts))}\n\n{block[3]}', page)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=('measure', 'predict'))
    parser.add_argument('file', type=Path, metavar='FILE.json', help='what was measured')
    parser.add_argument('--page', type=Path, metavar='FILE.md', help='fill in the tables of a page')
    parser.add_argument('--check', action='store_true', help='write nothing; fail if the page is stale')
    args = parser.parse_args(arguments)
    if args.action == 'measure':
        check_writable(args.file, 'FILE.json')
        atomic_write(json.dumps({'machine': machine(), **scale_parts.measure()}) + '\n', args.file)
        return
    try:
        parts = json.loads(args.file.read_text())
    except (OSError, ValueError) as error:
        raise SettingError(f'{args.file}: {error}. Give the file that "measure" wrote.') from error
    if not args.page:
        print(*(f'{name}\n\n{markdown(table(parts))}\n' for name, table in TABLES.items()), sep='\n')
    elif (text := filled(args.page.read_text(), parts)) != args.page.read_text():
        if args.check:
            raise UserError(f'{args.page} differs from {args.file}; repeat without --check.')
        atomic_write(text, args.page)


if __name__ == '__main__':
    run(main)
