"""The frame of a command-line tool."""

import argparse
import errno
import gc
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mmengine.config import DictAction

from icd_mmrazor import compat
from icd_mmrazor.compat.distributed import failed_to_connect, lost_connection
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.errors import UserError
from icd_mmrazor.launch.processes import die_with_parent, end_process, several_processes
from icd_mmrazor.launch.signals import Received, Stopped, stop_signals
from icd_mmrazor.memory import out_of_memory

SHOWN_OF_ERROR = 300
NO_CONNECTION = (
    'the other processes cannot be reached. On each machine, set GLOO_SOCKET_IFNAME, for GPUs also '
    'NCCL_SOCKET_IFNAME, to the interface that reaches the others. The command "ip route get ADDRESS" shows it.'
)

LESS_MEMORY = (
    'Lower the size of the batches (train_dataloader.batch_size), or train with --amp bf16. A large teacher takes less '
    "with model.teacher_precision='bf16-true' or model.teacher_offload='blocks', and a loss without gather_distributed."
)


def key_value(text: str) -> str:
    """Check that an item of ``--cfg-options`` is ``KEY=VALUE``."""
    key, equals, _ = text.partition('=')
    if not key or not equals:
        raise argparse.ArgumentTypeError(f'{text!r} is not KEY=VALUE, such as train_cfg.max_epochs=60')
    return text


class _Options(DictAction):
    """mmengine's action, which removes spaces from values; here a path keeps them."""

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        is_text = ' ' in val.strip() and not any(sign in val for sign in ',([')
        return val if is_text else DictAction._parse_iterable(val)


def add_cfg_options(parser: argparse.ArgumentParser, what: str | None = None) -> None:
    """Add ``--cfg-options KEY=VALUE ...``, for ``apply_cfg_options``; ``what`` is its help."""
    parser.add_argument('--cfg-options', nargs='+', type=key_value, action=_Options, metavar='KEY=VALUE', help=what)


def parse_options(options: Sequence[str]) -> dict[str, Any] | None:
    """Parse items ``KEY=VALUE`` as ``--cfg-options`` does."""
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    return parser.parse_args(['--cfg-options', *options] if options else []).cfg_options


def positive_int(text: str) -> int:
    """Convert an argument that must be a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive integer')
    return int(text)


def ranges(text: str) -> list[int]:
    """Convert an argument that names numbers and ranges: the numbers of ``0-4,7``."""
    numbers: list[int] = []
    for part in text.split(','):
        first, _, last = part.strip().partition('-')
        if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
            raise argparse.ArgumentTypeError(f'{part!r} is neither a number nor a range; give 0-9 or 0,3,5-7')
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def run(main: Callable[[], None], when_stopped: str = '') -> None:
    """Run a tool, and let it end with a readable message.

    A user error is its message alone, with exit status 1, and so are a full disk and a lack of memory. Ctrl-C, SIGTERM
    and SIGUSR1 are a line, with exit status 130, 143 and 138. Several processes name their rank and print a common
    message once; one that loses the connection to another says so, since the other knows the reason. Anything else
    keeps its trace.

    Args:
        main: The tool's main function.
        when_stopped: How to continue after such a signal, a sentence.
    """
    die_with_parent()
    # what was imported is never garbage: mmengine looks through it for each dataset (0.25 s), Python at the end (1 s)
    gc.freeze()
    with stop_signals():
        try:
            compat.runtime()
            with explained_settings():
                main()
        except UserError as error:
            _end(f'error: {error}', 1)
        except (Exception, KeyboardInterrupt) as error:
            if stop := _interrupt(error):
                what, status = (str(stop), stop.status) if isinstance(stop, Stopped) else ('Ctrl-C', 130)
                _end(f'stopped by {what}. {when_stopped}', status)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                _end(f'error: {error.strerror}. Make room on the disk that the run writes to. {when_stopped}', 1)
            if out_of_memory(error):
                reason = ' '.join(str(error).split()) or 'not enough memory'
                _end(f'error: {reason[:SHOWN_OF_ERROR]}\n{LESS_MEMORY}', 1)
            if not several_processes():
                raise
            if failed_to_connect(error):
                _end(f'error: {NO_CONNECTION} ({str(error).splitlines()[0]})', 1)
            if not lost_connection(error):
                _end(traceback.format_exc(), 1)
            for _ in range(20):  # two seconds: let the launcher see first the process that failed
                if Received.number:  # it has, and ends this one
                    end_process('', 128 + Received.number)
                time.sleep(0.1)
            _end(
                "error: the connection to another process is lost; see that process's message, or the launcher's. "
                f'({str(error).splitlines()[0]})',
                1,
            )


def _interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt that an error is, or followed: a signal to a process group ends DataLoader workers, too."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _end(message: str, status: int) -> NoReturn:
    if several_processes():
        end_process(message, status)
    print(f'\n{message}', file=sys.stderr)
    sys.exit(status)
