#!/usr/bin/env -S python3 -S -E
"""In place of Python on machines of the tests: its processes are forked from one that has imported the stack.

An import takes 5 seconds of CPU time, and the tests on a cluster start 60 processes. As a program this is the client:
it sends its arguments, variables and open files to the server of its machine, passes signals on, and ends as its
process does. The process ends with its client.
"""

import array
import contextlib
import json
import os
import signal
import socket
import sys
import threading

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
SERVERS = 'WARM_PYTHON'  # the variable of the environment: the folder of their sockets
INTEGERS = 'i'


def call() -> int:
    """Let the server of this machine run the command line; return the exit status."""
    words = [word for word in sys.argv[1:] if word != '-u']
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.path.join(os.environ[SERVERS], socket.gethostname()))  # noqa: PTH118 (a quick start)
        request = json.dumps([words, dict(os.environ), os.getcwd()]).encode()  # noqa: PTH109
        files = array.array(INTEGERS, (0, 1, 2))
        server.sendmsg([len(request).to_bytes(4, 'big')], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        server.sendall(request)
        for number in PASSED_ON:
            signal.signal(number, lambda sent, _: _pass_on(sent, server))
        status = server.recv(1)
        # until the end, where Python would restore what a signal does by default
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_IGN)
    return status[0] if status else 1


def _pass_on(number: int, server: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the process has ended
        server.send(bytes([number]))


def serve(path: str) -> None:
    """Serve the clients of a machine, in a process that has imported the stack; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _work(client)
            client.close()


def _work(client: socket.socket) -> None:
    files = array.array(INTEGERS)
    length, ancillary, *_ = client.recvmsg(4, socket.CMSG_SPACE(3 * files.itemsize))
    files.frombytes(ancillary[0][2])
    text = b''
    while len(text) < int.from_bytes(length, 'big'):
        text += client.recv(1 << 16)
    words, variables, folder = json.loads(text)
    # a supervisor, which nothing in the process can keep from passing signals on
    worker = os.fork()
    if worker == 0:
        os.setsid()
        client.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(folder)
        _run(words)

    def watch() -> None:
        while sent := client.recv(1):
            os.killpg(worker, sent[0])
        os.killpg(worker, signal.SIGKILL)  # the client is gone

    for file in files:
        os.close(file)
    threading.Thread(target=watch, daemon=True).start()
    _, status = os.waitpid(worker, 0)
    code = os.waitstatus_to_exitcode(status)
    client.send(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run(words: list[str]) -> None:
    import runpy

    import torch

    torch.set_num_threads(1)
    status: int | str | None = 1
    try:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(words[0]))  # noqa: PTH120
        sys.stdout, sys.stderr = (os.fdopen(file, 'w', buffering=1) for file in (1, 2))
        runpy.run_path(words[0], run_name='__main__')
        status = 0
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == '__main__':
    sys.exit(call())
