#!/usr/bin/env python3
"""Measure the latency of networks on this CPU, in torch and onnxruntime, with one thread and with all.

A network is a config (of a student, a teacher, or a distillation, whose student it is), a name (of mmpretrain's zoo,
timm/MODEL, hf/MODEL), or an exported file (.onnx, .pt, .pt2). Configs and names are measured in both, with random
weights.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.configuration.files import read_config_file
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.formats import ONNX, require_packages
from icd_mmrazor.export.latency import Latency, latency, machine, multiply_adds
from icd_mmrazor.export.network import build_network
from icd_mmrazor.export.onnx import as_onnx
from icd_mmrazor.export.running import RUNNABLE, check_logits, image_shape_of, network_in, onnx_network
from icd_mmrazor.export.student import plain_student
from icd_mmrazor.export.trained import TrainedStudent
from icd_mmrazor.launch.command_line import positive_int, run
from icd_mmrazor.machine import cores
from icd_mmrazor.models.networks.resolve import network_config

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

# from the number of threads to a network
Maker = Callable[[int], Callable]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('networks', nargs='+', metavar='NETWORK', help='config, name, or exported file')
    size = 'of the images (default: what the test pipeline makes, or what the file was exported for)'
    parser.add_argument('--input-size', nargs=2, type=positive_int, metavar=('H', 'W'), help=size)
    parser.add_argument('--batch-size', type=positive_int, default=1, metavar='N', help='images at a time (default: 1)')
    parser.add_argument('--seconds', type=float, default=1.0, help='time of each measurement, at least (default: 1)')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='write the numbers to this file, too')
    return parser.parse_args()


def student_of_config(name: str) -> TrainedStudent:
    is_file = name.endswith('.py')
    cfg = read_config_file(name, 'network') if is_file else Config(dict(model=network_config(name, 'NETWORK')))
    cfg = plain_student(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_network(f'the network of {name}', cfg.model).eval()
    return TrainedStudent(model, cfg, {'meta': {}, 'state_dict': model.state_dict()}, cfg)


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the row of a network: its size, and its latencies by library and number of threads."""
    row: dict[str, Any] = {'network': name}
    makers: dict[str, Maker] = {}
    if Path(name).suffix in RUNNABLE:
        shape = image_shape_of(Path(name), args.input_size)
        library = 'onnxruntime' if name.endswith('.onnx') else 'torch'
        makers[library] = lambda threads: network_in(Path(name), threads)
        row['megabytes'] = Path(name).stat().st_size / 1e6
    else:
        student = student_of_config(name)
        size = tuple(args.input_size) if args.input_size else student.image_size()
        shape, network = (student.channels, *size), student.logits()
        check_logits(network, shape, student.kind)
        row['network'] = ', '.join(filter(None, (name, student.change)))
        content = as_onnx(student, size).data
        makers = {'torch': lambda _: network, 'onnxruntime': lambda threads: onnx_network(content, threads)}
        row['parameters'] = sum(p.numel() for p in student.model.parameters())
        row['multiply_adds'] = multiply_adds(network, torch.zeros(1, *shape))
    images = torch.randn(args.batch_size, *shape, generator=torch.Generator().manual_seed(0))
    row['images'] = list(images.shape)
    for library, make in makers.items():
        for threads in dict.fromkeys((1, cores())):
            row[f'{library}, {threads}'] = latency(make(threads), images, threads, args.seconds)
    return row


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    latencies = [
        (f'{library}, {threads}', f'{library}, {threads} thread{"s" * (threads > 1)}, ms')
        for library in ('torch', 'onnxruntime')
        for threads in dict.fromkeys((1, cores()))
    ]
    titles = ['network', 'images', 'parameters', 'MACs', 'MB', *(title for _, title in latencies)]
    lines = [titles, ['---', '---', *['--:'] * (len(titles) - 2)]]
    for row in rows:
        numbers = [f'{row[name] / 1e6:.2f} M' if name in row else '' for name in ('parameters', 'multiply_adds')]
        numbers.append(f'{row["megabytes"]:.2f}' if 'megabytes' in row else '')
        images = ' x '.join(map(str, row['images']))
        lines.append([row['network'], images, *numbers, *(str(row.get(name, '')) for name, _ in latencies)])
    for cells in lines:
        yield f'| {" | ".join(cells)} |'


def main() -> None:
    args = parse_args()
    if not args.seconds > 0:
        raise SettingError(f'--seconds {args.seconds} must be a positive number.')
    if args.out:
        check_writable(args.out, '--out', ['.json'])
    if any(Path(name).suffix not in ('.pt', '.pt2') for name in args.networks):
        require_packages('latency in onnxruntime', ONNX, 'onnx')
    rows = [measured(name, args) for name in args.networks]
    about = f'{machine()}; median ± half of the interquartile range'
    print(*table(rows), about, sep='\n')
    if args.out:
        plain = [{k: v._asdict() if isinstance(v, Latency) else v for k, v in row.items()} for row in rows]
        atomic_write(json.dumps({'machine': machine(), 'networks': plain}, indent=1), args.out)


if __name__ == '__main__':
    run(main)
