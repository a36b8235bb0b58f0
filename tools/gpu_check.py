#!/usr/bin/env python3
"""Run everything that needs a GPU in about 8 minutes, and write a report: tests, short trainings, step times.

A small teacher is trained on scikit-learn's digits; students learn from it in each precision, compiled and not, in one
process and in several. A step that fails does not stop the others. With --device cpu the commands are rehearsed without
a GPU, shorter, and what a CPU cannot do is recorded as such. Nothing is downloaded.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.report.run_folder import logged_rows

import torch

sys.path.insert(0, str(Path(__file__).with_name('benchmarks')))
from trainings import METRIC, machine

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 240  # seconds of a step
SHOWN_LINES = 15  # of the log of one that failed
FELL_BACK = 'does not work here, so training continues'  # without torch_compile, which is a failure here
REFUSED = 'needs a GPU, and this machine shows none'  # by a tool
HEAD = """# GPU check

{state} Each step has a log, `STEP.log`. The trainings after the teacher have one seed and differ in what their names
say, so their accuracies should be close. Step times are medians.

| machine | |
|---|---|"""
DEVICES = {'cuda': 'cuda', 'cpu': 'cpu, a rehearsal: an epoch or two, after which accuracies mean nothing'}
TEACHER_EPOCHS = {'cuda': 20, 'cpu': 1}
PASSED, FAILED, NOT_ON_CPU, NOT_REHEARSED = 'passed', 'failed', 'not on a CPU', 'not rehearsed'


class Step(NamedTuple):
    """A command."""

    name: str
    command: str
    rehearsed: bool = True  # also on a CPU


class Outcome(NamedTuple):
    """What a step has come to."""

    step: Step
    outcome: str
    result: str = ''
    seconds: float = 0.0
    end_of_log: str = ''  # if it failed


def steps(folder: Path, device: str, gpus: int) -> Iterator[Step]:
    """Yield the steps: what others need first, what takes longest last."""
    cpu, here = device == 'cpu', shlex.quote(os.path.relpath(folder, ROOT))
    yield Step('data', f'python tools/dataset_converters/digits_to_npz.py {here}/digits.npz')
    yield Step('tests', 'python -m pytest tests -m gpu -q -rfE --tb=short --continue-on-collection-errors')
    yield Step('teacher', f'python tools/train.py {here}/teacher.py --work-dir {here}/teacher')
    # inductor takes minutes on a CPU
    compiled = '--cfg-options model.torch_compile' + ('.backend=aot_eager' if cpu else '=True')
    for name, options, *also_on_cpu in (
        ('fp32', '', True),
        ('fp16', '--amp fp16', True),
        ('bf16', '--amp bf16', True),
        ('fp32-compiled', compiled, True),
        ('fp16-compiled', f'--amp fp16 {compiled}'),
        ('bf16-compiled', f'--amp bf16 {compiled}'),
        ('bf16-graphs', '--amp bf16 --cfg-options model.torch_compile.mode=reduce-overhead'),
        ('fp16-clipped', '--amp fp16 --cfg-options optim_wrapper.clip_grad.max_norm=5'),
        ('deterministic', '--cfg-options randomness.deterministic=True'),
        ('cache', f'--cfg-options model.teacher_cache.path={here}/outputs'),
        ('offload', '--cfg-options model.teacher_precision=bf16-true model.teacher_offload=blocks'),
    ):
        words = f'python tools/train.py {here}/distil.py --work-dir {here}/{name} {options}'.strip()
        yield Step(name, words, bool(also_on_cpu))
    for number in sorted({1, 2 if cpu else gpus}):
        gather = ' --cfg-options model.distiller.icd.gather_distributed=True' if number > 1 else ''
        words = f'tools/dist_train.sh {here}/distil.py {number} --work-dir {here}/processes-{number}{gather}'
        yield Step(f'processes-{number}', words, rehearsed=number > 1)
    of_gpu, of_cpu = '--pairs res56_res20_cifar100 --steps 20', '--pairs res20_res8_digits --steps 1 --warm-up 1'
    for size in (8,) if cpu else (64, 512):
        words = f'{of_cpu} --rounds 1 --workers 0' if cpu else f'{of_gpu} --rounds 3'
        words += f' --batch-size {size} --out {here}/step-time-{size}.json'
        yield Step(f'step-time-{size}', f'python tools/benchmarks/step_time.py {words}')


def write_configs(folder: Path, device: str) -> None:
    """Write the configs of a teacher and a distillation: those of the demo with the files of this folder."""
    epochs = TEACHER_EPOCHS[device]
    data = f'_dataloader = dict(dataset=dict(data_file={str(folder / "digits.npz")!r}))\n'
    common = 'randomness = dict(seed=0)\n' + ''.join(split + data for split in ('train', 'val', 'test'))
    teacher = f'train_cfg = dict(max_epochs={epochs}, val_interval={epochs})\n'
    distil = f'model = dict(teacher_ckpt={str(folder / "teacher" / f"epoch_{epochs}.pth")!r})\n'
    # of the 100 images, so that all batches have one size and one graph
    distil += 'train_dataloader["batch_size"] = 50\n'
    distil += 'train_cfg = dict(max_epochs=2, val_interval=2)\n' if device == 'cpu' else ''
    for name, base, own in ('teacher', 'res20', teacher), ('distil', 'icd_res20_res8', distil):
        base = str(ROOT / 'configs' / 'demo' / f'{base}_digits.py')
        atomic_write(f'_base_ = {base!r}\n{common}{own}', folder / f'{name}.py')


def result_in(name: str, folder: Path, log: str) -> str:
    """Read what a step has measured: a count of tests, times or an accuracy."""
    if name == 'tests':
        found = re.findall(r'^=*\s*(\d+ [a-z]+.*?) in [\d.]+s', log, re.MULTILINE)
        return found[-1] if found else ''
    if (times := folder / f'{name}.json').is_file():
        (loops,) = (result['contenders'] for result in json.loads(times.read_text())['results'])
        return ', '.join(f'{loop} {measured["median_ms"]:.1f} ms' for loop, measured in loops.items())
    rows = [row for file in sorted(folder.glob(f'{name}/*/vis_data/scalars.json')) for row in logged_rows(file)]
    accuracies = [row[METRIC] for row in rows if METRIC in row]
    return f'accuracy {accuracies[-1]:.1f} %' if accuracies else ''


def judge(step: Step, folder: Path, device: str, status: int | None, seconds: float = 0.0) -> Outcome:
    """Judge a step by its log and its exit status, which is None if it was stopped for taking too long."""
    log = (folder / f'{step.name}.log').read_text(errors='replace')
    if device == 'cpu' and status and (refusals := re.findall(f'^error: (.*{REFUSED}.*)', log, re.MULTILINE)):
        return Outcome(step, NOT_ON_CPU, refusals[-1], seconds)
    if status == 0 and FELL_BACK not in log:
        return Outcome(step, PASSED, result_in(step.name, folder, log), seconds)
    reason = 'took too long' if status is None else f'exit status {status}' if status else 'was not compiled'
    return Outcome(step, FAILED, reason, seconds, '\n'.join(log.strip().splitlines()[-SHOWN_LINES:]))


def carry_out(step: Step, folder: Path, device: str) -> Outcome:
    """Run a step in the root of the project; what it prints goes to its log."""
    if device == 'cpu' and not step.rehearsed:
        return Outcome(step, NOT_REHEARSED)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'PYTHONPATH': path, 'PYTHON': sys.executable}
    environment |= {'CUDA_VISIBLE_DEVICES': ''} if device == 'cpu' else {}
    command = [sys.executable if word == 'python' else word for word in shlex.split(step.command)]
    started, status = time.monotonic(), None
    with (folder / f'{step.name}.log').open('w') as log:
        streams = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(LIMIT)
        finally:
            if status is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return judge(step, folder, device, status, time.monotonic() - started)


def machine_of(device: str) -> dict[str, Any]:
    facts = {name: value for name, value in machine().items() if name != 'gpu'}
    for i in range(torch.cuda.device_count() if device == 'cuda' else 0):
        gpu = torch.cuda.get_device_properties(i)
        facts[f'GPU {i}'] = f'{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}'
        facts['cuDNN, NCCL'] = f'{torch.backends.cudnn.version()}, {".".join(map(str, torch.cuda.nccl.version()))}'
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no clone
        facts['commit'] = subprocess.check_output(['git', 'rev-parse', 'HEAD'], cwd=ROOT, text=True).strip()
    return facts


def report(facts: Mapping[str, Any], outcomes: Sequence[Outcome], left: int = 0) -> str:
    """Write the machine, a table of the steps, the ends of the logs of those that failed, and the commands."""
    failures = [each for each in outcomes if each.outcome == FAILED]
    state = f'Failed: {", ".join(each.step.name for each in failures)}.' if failures else 'Nothing failed.'
    state += f' It took {sum(each.seconds for each in outcomes):.0f} s.'
    state += f' **{left} steps were not run.**' if left else ''
    lines = [HEAD.format(state=state), *(f'| {name} | {value} |' for name, value in facts.items())]
    lines += ['', '| step | outcome | seconds | result |', '|---|---|---:|---|']
    lines += [f'| {each.step.name} | {each.outcome} | {each.seconds:.0f} | {each.result} |' for each in outcomes]
    for each in failures:
        lines += ['', f'## {each.step.name}: {each.result}', '', f'The end of `{each.step.name}.log`:', '']
        lines += ['```', each.end_of_log, '```']
    lines += ['', '## Commands', '', 'In the root of the project:', '', '```bash']
    lines += [f'{each.step.command}  # {each.step.name}' for each in outcomes]
    return '\n'.join([*lines, '```', ''])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=[*DEVICES], default='cuda', help='default: %(default)s')
    parser.add_argument('--work-dir', type=Path, help='a new folder (default: work_dirs/gpu_check/TIME)')
    args = parser.parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SettingError('torch finds no GPU on this machine. Rehearse with --device cpu.')
    folder = (args.work_dir or ROOT / f'work_dirs/gpu_check/{datetime.now():%Y%m%d_%H%M%S}').resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError(f'--work-dir {args.work_dir} is there already. Give a new folder.')
    folder.mkdir(parents=True, exist_ok=True)
    write_configs(folder, args.device)
    todo = list(steps(folder, args.device, torch.cuda.device_count()))
    facts = {'time': f'{datetime.now():%d %B %Y, %H:%M}', 'device': DEVICES[args.device], **machine_of(args.device)}
    outcomes: list[Outcome] = []
    for step in todo:
        print(f'{step.name:14} ', end='', flush=True)
        outcomes.append(each := carry_out(step, folder, args.device))
        print(f'{each.outcome:13} {each.seconds:4.0f} s  {each.result}', flush=True)
        atomic_write(report(facts, outcomes, len(todo) - len(outcomes)), folder / 'report.md')
    print(f'\n{os.path.relpath(folder / "report.md")}')
    if any(each.outcome == FAILED for each in outcomes):
        sys.exit(1)


if __name__ == '__main__':
    run(main)
