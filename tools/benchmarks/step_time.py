#!/usr/bin/env python3
"""Time a training step: a plain loop, our defaults and our fast settings, on random images.

The loops take turns in one process. "plain" is what research scripts do: eager, float32, torchvision's transforms image
by image, teacher and student in full; its loss is that of examples/plain_loop.py. "defaults" is what tools/train.py
runs, "fast" the same with --amp bf16 (and compiled on a GPU). "cached" is the defaults with all outputs of the teacher
in a teacher cache, "student" the same with one output for all steps, in place of the lookup; neither is there for
methods that compare maps. The arithmetic limit is the number of operations of convolutions and matrix products, divided
by the speed of one large matrix product.
"""

import argparse
import copy
import json
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.configuration.files import apply_cfg_options
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import parse_options, positive_int, run
from icd_mmrazor.launch.run_config import load_config
from icd_mmrazor.machine import cores
from icd_mmrazor.models.teacher_cache.layout import RowLayout

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from trainings import machine

PLAIN, DEFAULTS, FAST, CACHED, STUDENT = 'plain', 'defaults', 'fast', 'cached', 'student'
CACHED_BATCHES = 32  # what the cached contenders are trained on, again and again
ROWS = 50_000  # of the cache, written at a time
PRODUCT_SIZES = {'cpu': 2048, 'cuda': 8192}
EXAMPLE = Path(__file__).resolve().parents[2] / 'examples' / 'plain_loop.py'
if not EXAMPLE.is_file():
    sys.exit(f'error: {EXAMPLE} is missing, the plain loop. Run this tool in a clone of the repository.')
PlainICD = runpy.run_path(str(EXAMPLE))['PlainICD']


def feature_and_logits(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run an ``ImageClassifier``; return its pooled feature and its logits."""
    feature = network.head.pre_logits(network.extract_feat(images))
    return feature, network.head.fc(feature)


class PlainImages(TensorDataset):
    """Images that are cropped, flipped and normalised one by one when they are read."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, cfg: Config) -> None:
        super().__init__(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels))
        unit = [[value / 255 for value in cfg.data_preprocessor[name]] for name in ('mean', 'std')]
        steps: list[Callable] = [transforms.ToPILImage()]
        for step in cfg.train_dataloader.dataset.pipeline:
            if type_name(step['type']) == 'RandomCrop':
                steps.append(transforms.RandomCrop(step['crop_size'], padding=step['padding']))
            elif type_name(step['type']) == 'RandomFlip':
                steps.append(transforms.RandomHorizontalFlip(step['prob']))
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*unit)])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        return self.transform(image), label


def plain_steps(
    cfg: Config, images: PlainImages, networks: tuple[nn.Module, nn.Module], args: argparse.Namespace
) -> Iterator[float]:
    """Train with a plain loop, a step each time the iterator is advanced."""
    teacher, student = (copy.deepcopy(network).to(args.device) for network in networks)
    icd = PlainICD(student.head.fc.in_features, teacher.head.fc.in_features).to(args.device)
    settings = {key: value for key, value in cfg.optim_wrapper.optimizer.items() if key != 'type'}
    optimizer = torch.optim.SGD([*student.parameters(), *icd.parameters()], **settings)
    teacher.eval(), student.train()
    for batch in DataLoader(images, batch_size=args.batch_size, shuffle=True, num_workers=args.workers):
        pixels, labels = (tensor.to(args.device) for tensor in batch)
        with torch.no_grad():
            t_feature, _ = feature_and_logits(teacher, pixels)
        s_feature, logits = feature_and_logits(student, pixels)
        loss = F.cross_entropy(logits, labels) + icd(s_feature, t_feature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


@LOOPS.register_module(force=True)
class SteppedTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop, whose iterations are run one by one after ``Runner.train``."""

    def run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        return self.runner.model

    def steps(self) -> Iterator[None]:
        """Train for ever, a step each time the iterator is advanced."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        while True:
            for index, batch in enumerate(self.dataloader):
                self.run_iter(index, batch)
                yield


class Lookups:
    """The lookups in a full cache of random outputs, and their seconds; or one lookup for all batches, ``replaced``."""

    def __init__(self, algorithm: nn.Module, replaced: bool) -> None:
        self.outputs, self.replaced, self.found = algorithm.teacher_cache.outputs, replaced, None
        self.seconds: list[float] = []
        store = algorithm.teacher_cache.store
        layout = RowLayout.from_facts(store.facts['outputs'])
        for rows in np.split(np.arange(store.rows), range(ROWS, store.rows, ROWS)):
            random = {name: torch.randn(len(rows), *field.shape) for name, field in layout.outputs.items()}
            store.write(rows, layout.pack(random))
        algorithm.teacher_cache.outputs = self

    def __call__(self, *batch: Any) -> dict[str, Tensor]:
        if self.found is None or not self.replaced:
            start = time.perf_counter()
            self.found = self.outputs(*batch)
            self.seconds.append(time.perf_counter() - start)
        return self.found


def runner_steps(
    cfg: Config, file: Path, networks: tuple[nn.Module, nn.Module], batch_size: int, folder: Path
) -> tuple[Iterator[None], Lookups | None]:
    """Train as tools/train.py does, a step each time the iterator is advanced; return the lookups in a cache, too."""
    dataset = dict(type='NPZDataset', data_file=str(file), pipeline=cfg.train_dataloader.dataset.pipeline)
    if cfg.model.get('teacher_cache'):
        dataset['indices'] = CACHED_BATCHES * batch_size
    cfg.train_dataloader = {**cfg.train_dataloader, 'batch_size': batch_size, 'dataset': dataset}
    cfg.train_cfg = dict(type='SteppedTrainLoop', max_epochs=cfg.train_cfg.max_epochs)
    for split in ('val', 'test'):
        cfg.merge_from_dict({f'{split}_{part}': None for part in ('dataloader', 'evaluator', 'cfg')})
    cfg.model.update(teacher_ckpt=None, random_teacher=True)
    cfg.default_hooks.checkpoint = None
    cfg.log_level = 'WARNING'
    cfg.randomness.seed = 0
    folder.mkdir()
    cfg.dump(folder / 'contender.py')
    options = dict(launcher='none', local_rank=0, work_dir=str(folder), cfg_options=None)
    cfg = load_config(argparse.Namespace(config=folder / 'contender.py', **options))
    cfg.experiment_name = str(folder)
    runner = Runner.from_cfg(cfg)
    runner.train()
    for name, network in zip(('teacher', 'architecture'), networks, strict=True):
        getattr(runner.model, name).load_state_dict(network.state_dict())
    cache = runner.model.teacher_cache
    lookups = Lookups(runner.model, folder.name == STUDENT) if cache and cache.in_use else None
    return runner.train_loop.steps(), lookups


def untrained(cfg: Config, size: int) -> tuple[nn.Module, nn.Module]:
    """Build teacher and student with random weights."""
    torch.manual_seed(0)
    teacher, student = (MODELS.build(cfg.model[name]) for name in ('teacher', 'architecture'))
    # a deep teacher would overflow with the initial statistics of its batch norms: they get those of random images
    update_bn([torch.randn(64, 3, size, size)], teacher)
    return teacher.eval(), student


def step_flops(teacher: nn.Module, student: nn.Module, batch_size: int, size: int) -> int:
    """Count the operations of a step: the teacher's forward pass, the student's forward and backward pass."""
    teacher, student = (copy.deepcopy(network).to('meta') for network in (teacher, student))
    images = torch.empty(batch_size, 3, size, size, device='meta')
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            feature_and_logits(teacher, images)
        feature, logits = feature_and_logits(student, images)
        (feature.sum() + logits.sum()).backward()
    return counter.get_total_flops()


def seconds(function: Callable[[], Any], calls: int) -> float:
    return Timer('f()', globals={'f': function}, num_threads=torch.get_num_threads()).timeit(calls).mean


def product_speed(dtype: torch.dtype, device: str) -> float:
    """Measure the operations per second of a large matrix product."""
    size = PRODUCT_SIZES[device]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: left @ right, 3)


def measure(pair: str, contenders: dict[str, Config | None], args: argparse.Namespace) -> dict[str, Any]:
    """Measure the contenders on a pair, in turns."""
    base = recipes.compose(pair, args.methods)
    pipeline = base.train_dataloader.dataset.pipeline
    size = next(step.crop_size for step in pipeline if type_name(step['type']) == 'RandomCrop')
    networks = untrained(base, size)
    # batches that workers made during the turns of others would come for free; torch's timer takes 2 steps more
    lead_in = 2 * args.workers
    count = args.batch_size * (args.warm_up + args.rounds * (lead_in + args.steps + 2))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.arange(count) % base.model.architecture.head.num_classes
    times: dict[str, list[float]] = {name: [] for name in contenders}
    speeds: dict[str, list[float]] = {'float32': [], 'bfloat16': []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'images.npz')
        np.savez(file, images=images, labels=labels)
        loops: dict[str, Iterator] = {}
        lookups: dict[str, Lookups] = {}
        for name, cfg in contenders.items():
            if cfg is None:
                loops[name] = plain_steps(base, PlainImages(images, labels, base), networks, args)
            else:
                loops[name], found = runner_steps(cfg.copy(), file, networks, args.batch_size, Path(folder, name))
                lookups |= {name: found} if found else {}
            for _ in range(args.warm_up):
                next(loops[name])
        for _ in range(args.rounds):
            for name, loop in loops.items():
                for _ in range(lead_in):
                    next(loop)
                times[name].append(seconds(lambda loop=loop: next(loop), args.steps))
            for dtype, found in speeds.items():
                found.append(product_speed(getattr(torch, dtype), args.device))
        for loop in loops.values():
            loop.close()
    flops, measured = step_flops(*networks, args.batch_size, size), {}
    for name, values in times.items():
        ratios = [value / other for value, other in zip(values, next(iter(times.values())), strict=True)]
        ms = [1e3 * value for value in values]
        measured[name] = dict(ms=ms, median_ms=statistics.median(ms), ratio=statistics.median(ratios))
        if name in lookups and not lookups[name].replaced:
            lookup = 1e3 * statistics.median(lookups[name].seconds)
            measured[name] |= dict(lookup_ms=lookup, lookup=lookup / statistics.median(ms))
    limits = {dtype: 1e3 * flops / statistics.median(found) for dtype, found in speeds.items()}
    return dict(pair=pair, batch_size=args.batch_size, gflop=flops / 1e9, limit_ms=limits, contenders=measured)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pairs = ['res32x4_res8x4_cifar100', 'wrn40-2_wrn16-2_cifar100']
    parser.add_argument('--pairs', nargs='+', default=pairs, metavar='PAIR', help='default: %(default)s')
    parser.add_argument('--methods', default=['icd'], type=recipes.split_methods, help='default: icd, as in "plain"')
    one_more = 'one more: the defaults with these settings changed; may be repeated'
    contender = dict(nargs='+', action='append', default=[], metavar=('NAME', 'KEY=VALUE'), help=one_more)
    parser.add_argument('--contender', **contender)
    threads = "torch's threads on the CPU (default: torch's choice)"
    parser.add_argument('--threads', type=positive_int, metavar='N', help=threads)
    for name, default in (('batch-size', 64), ('rounds', 7), ('steps', 5), ('warm-up', 5)):
        text = f'{"of a turn, " if name == "steps" else ""}default: {default}'
        parser.add_argument(f'--{name}', type=positive_int, default=default, metavar='N', help=text)
    workers, text = min(8, cores()), 'of the plain loop, default: %(default)s'
    parser.add_argument('--workers', type=int, default=workers, metavar='N', help=text)
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='also write all numbers')
    args = parser.parse_args(arguments)
    if args.out:
        check_writable(args.out, '--out')
    args.device = 'cuda' if get_device() == 'cuda' else 'cpu'
    return args


def contenders_of(pair: str, args: argparse.Namespace) -> dict[str, Config | None]:
    """Return the configs of the contenders by their names; the plain loop has none."""
    fast = ['model.teacher_precision=bf16', 'optim_wrapper.type=AutocastOptimWrapper']
    modes = ['model.torch_compile=True'], ['model.torch_compile.mode=reduce-overhead']
    compiled, graphs = modes if args.device == 'cuda' else ([], [])
    cached = ['model.teacher_cache.views=all', 'model.teacher_cache.verify=0']
    base, ours = recipes.compose(pair, args.methods), [[DEFAULTS], [FAST, *fast, *compiled]]
    if 'teacher' not in base.model:
        raise SettingError(f'--methods {"+".join(args.methods)}: a student alone has no distillation to measure.')
    needs = set().union(*map(recipes.needs_of, args.methods))
    if 'views' in needs or base.param_scheduler.get('begin'):
        found = 'two views of each image' if 'views' in needs else 'an initial stage'
        raise SettingError(f'--methods {"+".join(args.methods)}: steps with {found} are not measured. Give others.')
    if not needs & {'maps', 'tokens', 'preactivations', 'blocks'}:
        ours += [[CACHED, *cached], [f'{CACHED} {FAST}', *cached, *fast, *graphs], [STUDENT, *cached]]
    contenders: dict[str, Config | None] = {PLAIN: None} if args.methods == ['icd'] else {}
    for name, *options in (*ours, *args.contender):
        if name in contenders:
            raise SettingError(f'--contender {name}: this name is taken. Give another.')
        contenders[name] = copy.deepcopy(base)
        apply_cfg_options(contenders[name], parse_options(options))
    return contenders


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    contenders = {pair: contenders_of(pair, args) for pair in args.pairs}
    results = []
    for pair, configs in contenders.items():
        results.append(result := measure(pair, configs, args))
        limits = ', '.join(f'{ms:.0f} ms in {dtype}' for dtype, ms in result['limit_ms'].items())
        print(f'{pair}, batch {args.batch_size}: {result["gflop"]:.1f} GFLOP per step, at least {limits}')
        for name, times in result['contenders'].items():
            lookup = f'  lookup {times["lookup_ms"]:.2f} ms, {times["lookup"]:.2%}' if 'lookup' in times else ''
            print(f'  {name:12} {times["median_ms"]:9.1f} ms  ratio {times["ratio"]:.2f}{lookup}', flush=True)
    if args.out:
        atomic_write(json.dumps({'machine': machine(), 'results': results}, indent=1) + '\n', args.out)


if __name__ == '__main__':
    run(main)
