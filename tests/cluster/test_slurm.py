"""The Slurm scripts on a real Slurm of two nodes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import TOOLS
from machines import read, shows, wait_until
from slurm import Slurm

RECIPE = TOOLS / 'slurm' / 'train.sbatch'


def test_a_job_that_is_preempted_cancelled_and_out_of_time_ends_with_the_same_bits(
    slurm: Slurm, config: Path, tmp_path: Path, ends_as_trained: Callable[[Path], bool]
) -> None:
    """Two nodes with one process each."""
    work_dir, log = tmp_path / 'work', tmp_path / 'job.log'
    options = ['--nodes=2', '--gres=gpu:1', '--cpus-per-task=2', f'--output={log}', RECIPE, config, work_dir]

    def start(job: str, number: int, until: str) -> Path:
        shows(work_dir / 'slurm' / f'{job}-{number}.log', until)
        return work_dir / 'slurm' / f'{job}-{number}.log'

    job = slurm.submit(*options)
    first = start(job, 0, 'Epoch(train)')
    slurm.submit('--partition=urgent', '--nodes=2', '--exclusive', f'--output={tmp_path}/other.log', '--wrap=sleep 1')
    second = start(job, 1, 'Epoch(train)')
    assert 'stopped by SIGTERM. Saved: ' in read(first)
    slurm.output(0, 'scancel', job)
    wait_until(lambda: slurm.state(job) == 'CANCELLED' and slurm.idle() == 2, 60)
    assert 'stopped by SIGTERM. Saved: ' in read(second)

    again = slurm.submit(*options)
    third = start(again, 0, 'Epoch(train)')
    # as Slurm does when the time that --signal names has come
    slurm.output(0, 'scancel', '--signal=USR1', again)
    fourth = start(again, 1, 'Training ended')
    assert 'stopped by SIGUSR1. Saved: ' in read(third)
    wait_until(lambda: slurm.state(again) == 'COMPLETED', 30)
    for each in (first, second, third, fourth):
        assert 'Traceback' not in read(each)
        assert read(each).count(' stopped by SIG') == (each != fourth)
    for each in (second, third, fourth):
        assert 'resume=' in read(each)
    assert ends_as_trained(work_dir)
    assert not list(work_dir.glob('iter_*.pth'))

    # without GPUs, and without the name of a partition; on one node and on two
    for nodes in (1, 2):
        out, said = tmp_path / 'metrics.json', tmp_path / f'test{nodes}.log'
        checkpoint = (work_dir / 'last_checkpoint').read_text()
        command = [TOOLS / 'slurm_test.sh', '', 'test', config, checkpoint, '--out', out]
        variables = dict(GPUS=2, GPUS_PER_NODE=2 // nodes, CPUS_PER_TASK=1, GRES='none')
        assert slurm.start(0, said, *command, **variables).wait() == 0, read(said)
        assert f'accuracy/top1: {json.loads(out.read_text())["accuracy/top1"]:.4f}' in read(fourth)
        out.unlink()


def test_two_trainings_of_one_job(
    slurm: Slurm, config: Path, tmp_path: Path, ends_as_trained: Callable[[Path], bool]
) -> None:
    """At the same time, over the same two nodes: they meet at different ports."""
    train = f'GPUS=2 GPUS_PER_NODE=1 CPUS_PER_TASK=1 {TOOLS}/slurm_train.sh "" job {config}'
    commands = [f'{train} {tmp_path}/work{number} & pids+=($!)' for number in (1, 2)]
    (tmp_path / 'job.sh').write_text('\n'.join(['#!/bin/bash', *commands, 'wait "${pids[0]}" && wait "${pids[1]}"\n']))
    options = ['--nodes=2', '--gres=gpu:2', '--ntasks-per-node=1', '--cpus-per-task=2', f'--output={tmp_path}/job.log']
    job = slurm.submit(*options, tmp_path / 'job.sh')
    wait_until(lambda: slurm.state(job) not in ('PENDING', 'RUNNING', 'COMPLETING'), 180)
    assert slurm.state(job) == 'COMPLETED', read(tmp_path / 'job.log')
    assert ends_as_trained(tmp_path / 'work1')
    assert ends_as_trained(tmp_path / 'work2')


def test_a_failing_rank_fails_the_job_with_one_message(slurm: Slurm, config: Path, tmp_path: Path) -> None:
    """Within an allocation of a single node, all of which is used: one process for each of its GPUs."""
    log, script = tmp_path / 'the job.log', tmp_path / 'job.sh'
    wrong = '--cfg-options model.distiller.embed_dims=abc'
    script.write_text(f'#!/bin/bash\n{TOOLS}/slurm_train.sh "" wrong {config} {tmp_path}/work {wrong}\n')
    quoted = f"ALL,SRUN_ARGS=--output='{log}'"
    job = slurm.submit('--gres=gpu:2', '--cpus-per-task=2', f'--export={quoted}', '--output=/dev/null', script)
    wait_until(lambda: slurm.state(job) not in ('PENDING', 'RUNNING', 'COMPLETING'), 120, lambda: read(log))
    assert slurm.state(job) == 'FAILED'
    assert read(log).count('error: ') == read(log).count('[rank ') == 1, read(log)
    assert "error: ICDDistiller: embed_dims='abc' must be" in read(log)
    assert 'Traceback' not in read(log)


@pytest.mark.parametrize(
    ('variables', 'message'),
    [
        (dict(GPUS='4', GPUS_PER_NODE='1'), 'needs 4 nodes; the allocation has 2'),
        (dict(GPUS='3', GPUS_PER_NODE='2'), 'GPUS=3 must be a multiple of GPUS_PER_NODE=2'),
        (dict(SRUN_ARGS='--comment="a'), 'has a quote without its other half'),
    ],
    ids=['nodes', 'multiple', 'quote'],
)
def test_what_does_not_fit_the_allocation_is_refused(
    variables: dict[str, str], message: str, slurm: Slurm, tmp_path: Path
) -> None:
    log = tmp_path / 'log'
    arguments = ['--nodes=2', '--cpus-per-task=1', TOOLS / 'slurm_train.sh', '', 'job', 'config.py', 'work']
    assert slurm.start(0, log, 'salloc', *arguments, **variables).wait() == 2, read(log)
    assert message in read(log)


def test_a_type_of_gpu_is_asked_for(slurm: Slurm, tmp_path: Path) -> None:
    """Of which this cluster has none."""
    log, arguments = tmp_path / 'log', ['gpu', 'job', 'config.py', 'work']
    environment = dict(GPUS=1, GRES='gpu:a100:1', CPUS_PER_TASK=1)
    assert slurm.start(0, log, TOOLS / 'slurm_train.sh', *arguments, **environment).wait() == 1
    assert 'Requested node configuration is not available' in read(log)


def test_a_job_whose_node_fails_resumes_on_another(slurm: Slurm, config: Path, tmp_path: Path) -> None:
    """The last test here: node2 is gone."""
    work_dir = tmp_path / 'work'
    other = slurm.submit('--nodelist=node1', '--exclusive', '--output=/dev/null', '--wrap=sleep 600')
    options = ['--gres=gpu:1', '--cpus-per-task=1', f'--output={tmp_path}/job.log']
    job = slurm.submit(*options, RECIPE, config, work_dir, '--cfg-options', 'train_cfg.max_epochs=12')
    shows(work_dir / 'slurm' / f'{job}-0.log', 'Saving checkpoint at 2 epochs')
    slurm.output(0, 'scancel', other)
    slurm.switch_off(2)
    # as Slurm does by itself when it has not heard of a node for SlurmdTimeout
    slurm.output(0, 'scontrol', 'update', 'nodename=node2', 'state=down', 'reason=test')
    shows(work_dir / 'slurm' / f'{job}-1.log', 'Training ended')
    assert 'resume=' in read(work_dir / 'slurm' / f'{job}-1.log')
    wait_until(lambda: slurm.state(job) == 'COMPLETED', 30)
