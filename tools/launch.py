#!/usr/bin/env python3
"""Run a tool in several processes with torchrun.

    launch.py SCRIPT PROCESSES [ARGUMENTS OF SCRIPT]

For dist_train.sh, dist_test.sh, slurm_train.sh and slurm_test.sh. Without a GPU the processes use the CPU.
  one machine    PROCESSES on it, on a free port unless PORT is set
  more machines  the same command on each, with NNODES, MASTER_ADDR (the machine with NODE_RANK=0), PORT (29500) and
                 each with its own NODE_RANK (0 to NNODES-1)
  JOIN_TIMEOUT   seconds to wait for the other machines (600)
  MAX_RESTARTS   how often torchrun restarts all processes when one has died (0); train.py then resumes
  STOP_TIMEOUT   seconds between a signal, at which train.py writes a checkpoint and ends, and killing it (30)
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

# a cluster sends SIGUSR1 when it is asked to, some time before the end of a job
SIGNALS = 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1'
LOOK, GRACE = 0.5, 5.0  # seconds: between looks, and from the failure of a machine to the end of the others


def fail(message: str) -> NoReturn:
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)


def number(name: str, default: str, least: int, most: int = 10**9) -> int:
    """Read a variable of the environment."""
    text = os.environ.get(name, default)
    if not text.isdecimal() or not least <= int(text) <= most:
        fail(f'{name} must be an integer from {least} to {most}, not {text!r}.')
    return int(text)


def is_here(address: str) -> bool:
    """Return whether an address, or a name, is one of this machine."""
    for family, kind, _, _, place in socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM):
        with socket.socket(family, kind) as own, contextlib.suppress(OSError):
            own.bind(place)
            return True
    return False


def open_store(rank: int, address: str, port: int, end: float) -> dist.Store:
    """Open the store of the launch, which the machine with NODE_RANK=0 holds, or wait for it."""
    where, host, said = f'MASTER_ADDR={address}, PORT={port}', socket.gethostname(), ''
    if rank == 0:
        try:
            if not is_here(address):
                fail(
                    f'NODE_RANK=0 is for the machine of MASTER_ADDR={address}, and this is {host}. Correct one of them.'
                )
            # torchrun in this process uses the same
            return dist.TCPStore(address, port, is_master=True, wait_for_workers=False, multi_tenant=True)
        except (OSError, RuntimeError) as error:
            fail(f'{where} cannot be opened: {str(error).splitlines()[0]} Set another PORT on all machines.')
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return dist.TCPStore(address, port, is_master=False, wait_for_workers=False, multi_tenant=True)
        except (OSError, RuntimeError) as error:
            reason = f'{where}: {getattr(error, "strerror", None) or error}'
        if time.monotonic() > end:
            fail(
                f'{host} (NODE_RANK={rank}) has reached no machine with NODE_RANK=0. {reason}. Start it there, and '
                'check address, port and network.'
            )
        if reason != said:
            print(f'NODE_RANK={rank} waits: {reason}', file=sys.stderr, flush=True)
        said = reason
        time.sleep(LOOK)


def let_others_look(rank: int) -> None:
    """Wait before this machine ends, if its store ends with it."""
    if rank == 0:
        time.sleep(2 * LOOK)


def join_machines(count: int, rank: int, address: str, port: int, restarts: int) -> dist.Store:
    """Wait until all machines are there, and refuse what would let them wait for each other; return the store."""
    seconds = number('JOIN_TIMEOUT', '600', 1)
    end = time.monotonic() + seconds
    print(f'NODE_RANK={rank} waits up to {seconds} s for all {count} machines', file=sys.stderr, flush=True)
    store = open_store(rank, address, port, end)
    machines = dist.PrefixStore('machines', store)
    own = dict(NNODES=count, MAX_RESTARTS=restarts, host=socket.gethostname())
    known = json.loads(machines.compare_set(str(rank), '', json.dumps(own)))
    # one that joins a launch which has started takes the place of another
    if known['host'] != own['host'] and not machines.check(['all']):
        fail(f'NODE_RANK={rank} is taken by {known["host"]}. Give each machine its own.')
    machines.set(str(rank), json.dumps(own))
    hosts: list[str] = []
    while len(hosts) < count:
        following = str(len(hosts))
        if machines.check([following]):
            other = json.loads(machines.get(following))
            for name in ('NNODES', 'MAX_RESTARTS'):
                if other[name] != own[name]:
                    let_others_look(rank)
                    fail(f'{name}={own[name]} on {own["host"]}, {other[name]} on {other["host"]}. Give all the same.')
            hosts.append(other['host'])
        elif time.monotonic() > end:
            missing = [str(each) for each in range(count) if not machines.check([str(each)])]
            fail(
                f'NODE_RANK={", ".join(missing)} of NNODES={count} has not joined within {seconds} s. Start the same '
                'command there, with this NODE_RANK.'
            )
        else:
            time.sleep(LOOK)
    machines.set('all', '')
    store.delete_key(f'ended/{rank}')  # of a machine that comes back
    print(f'NODE_RANK={rank}: all machines are there: {", ".join(hosts)}', file=sys.stderr, flush=True)
    return store


def watch_machines(store: dist.Store, count: int, rank: int, logs: str) -> threading.Event:
    """Stop this machine if another one has failed, which its processes would wait for; return whether it did.

    The processes themselves only notice that a connection is lost, and have none until all of them have started.
    ``logs`` is the folder to remove if torchrun cannot be stopped in order.
    """
    failed = threading.Event()

    def watch() -> None:
        others = [f'ended/{other}' for other in range(count) if other != rank]
        try:
            while not (ended := [key for key in others if store.check([key])]):
                time.sleep(LOOK)
            host, status = json.loads(store.get(ended[0]))
            reason = f'{host} has failed with status {status}; see its messages'
            time.sleep(GRACE)  # they end by themselves, or stop with a checkpoint
        except RuntimeError:  # the machine of the store is gone
            if not still_connects():
                return  # the processes say so
            reason = 'the machine of MASTER_ADDR has left; see its message'
        failed.set()
        print(f'error: {reason}.', file=sys.stderr, flush=True)
        if still_connects():
            shutil.rmtree(logs, ignore_errors=True)
            os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return failed


def still_connects() -> bool:
    """Return whether torchrun has no processes yet: it waits for its store in C++, for up to 5 minutes."""
    return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def tell_machines(store: dist.Store, rank: int, status: int) -> None:
    """Say that this machine has failed, unless the store does not answer, which may last for ever."""

    def tell() -> None:
        with contextlib.suppress(RuntimeError):
            store.set(f'ended/{rank}', json.dumps([socket.gethostname(), status]))

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(GRACE)
    let_others_look(rank)


def tell_end(failure: ChildFailedError) -> int:
    """Say what killed a process, which says anything else itself; return the exit status."""
    rank, first = failure.get_first_failure()
    if first.exitcode >= 0:
        return first.exitcode
    name = signal.Signals(-first.exitcode).name
    memory = ' Often that is the system, for lack of memory.' if name == 'SIGKILL' else ''
    print(f'error: rank {rank} on {socket.gethostname()} was killed by {name}.{memory}', file=sys.stderr)
    return 128 - first.exitcode


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    script, processes, *arguments = sys.argv[1:]
    if not processes.isdecimal() or int(processes) < 1:
        fail(f'the number of processes must be a positive integer, not {processes!r}.')
    machines, restarts = number('NNODES', '1', 1), number('MAX_RESTARTS', '0', 0)
    words = ['--nproc-per-node', processes, '--max-restarts', str(restarts)]
    if machines == 1 and not os.environ.get('PORT'):
        words.append('--standalone')
    else:
        if machines > 1 and (missing := [name for name in ('NODE_RANK', 'MASTER_ADDR') if not os.environ.get(name)]):
            fail(f'NNODES={machines} needs {" and ".join(missing)}: MASTER_ADDR names the machine with NODE_RANK=0.')
        address, port = os.environ.get('MASTER_ADDR') or '127.0.0.1', number('PORT', '29500', 1, 65535)
        rank = number('NODE_RANK', '0', 0, machines - 1)
        words += ['--nnodes', str(machines), '--node-rank', str(rank), '--master-addr', address]
        words += ['--master-port', str(port)]
    # otherwise torchrun and mmengine set these to 1, each with a warning
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, cores // int(processes))))
    os.environ.setdefault('MKL_NUM_THREADS', os.environ['OMP_NUM_THREADS'])
    # as variables: older versions of torch do not know these options
    os.environ['PET_SIGNALS_TO_HANDLE'] = os.environ['TORCHELASTIC_SIGNALS_TO_HANDLE'] = SIGNALS
    os.environ['PET_SHUTDOWN_TIMEOUT'] = str(number('STOP_TIMEOUT', '30', 1))
    logging.disable()  # torchrun's lines, which repeat what the processes say
    with tempfile.TemporaryDirectory(prefix='torchrun_') as logs:
        words += [
            '--log-dir',
            logs,
            str(Path(__file__).resolve().with_name(script)),
            *arguments,
            '--launcher',
            'pytorch',
        ]
        if machines == 1:
            return run_processes(words)
        try:
            store = join_machines(machines, rank, address, port, restarts)
        except RuntimeError as error:
            fail(f'the machine of MASTER_ADDR={address} has left; see its message. ({str(error).splitlines()[0]})')
        failed = watch_machines(store, machines, rank, logs)
        status = run_processes(words)
        if status:
            tell_machines(store, rank, status)
        return 1 if failed.is_set() else status


def run_processes(words: list[str]) -> int:
    """Run torchrun with these arguments; return the exit status."""
    try:
        run(parse_args(words))
    except ChildFailedError as failure:
        return tell_end(failure)
    except SignalException as stop:
        first: BaseException = stop
        while isinstance(first.__context__, SignalException):
            first = first.__context__
        return 128 + first.sigval  # the processes say more
    finally:
        # Slurm ends a task when another one has ended: that does not change what this one says
        for name in SIGNALS.split(','):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    return 0


if __name__ == '__main__':
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # Python's own end aborts if the thread that looks at the store is in C++
