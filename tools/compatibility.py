"""Run the test suite in each supported environment and write what came of it to docs/compatibility.md.

python tools/compatibility.py                      every environment of the matrix, one after another
python tools/compatibility.py 3.10-onedl ...       these
python tools/compatibility.py --tests tests/utils  a part of the tests; nothing is recorded
python tools/compatibility.py --page               write the page anew from what is recorded

An environment is built with pip from setup.cfg and requirements/constraints.txt if it is not there, 6 GB each. The
results lie in docs/compatibility.json, from which the page is made; a run replaces the earlier one of its environment.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.command_line import run

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / 'requirements' / 'constraints.txt'
PAGE = ROOT / 'docs' / 'compatibility.md'
RECORDS = ROOT / 'docs' / 'compatibility.json'


@dataclass(frozen=True)
class Cell:
    """An environment of the matrix."""

    python: str
    family: str
    pins: tuple[str, ...] = ()  # instead of those in the constraints


OLDEST_TORCH = ('torch==2.10.0', 'torchvision==0.25.0')
CELLS = {
    '3.10-onedl': Cell('3.10', 'onedl'),
    '3.11-onedl': Cell('3.11', 'onedl'),
    '3.12-onedl': Cell('3.12', 'onedl'),
    '3.13-onedl': Cell('3.13', 'onedl'),
    '3.10-openmmlab': Cell('3.10', 'openmmlab'),
    '3.13-openmmlab': Cell('3.13', 'openmmlab'),
    '3.10-onedl-oldest-torch': Cell('3.10', 'onedl', OLDEST_TORCH),
}
FAMILIES = {
    'onedl': ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain'),
    'openmmlab': ('mmengine', 'mmcv-lite', 'mmpretrain'),
}

INTRODUCTION = """\
# Compatibility

The whole test suite was run on a CPU in these environments, at these dates and commits (*dirty*: with changes).
What is not there, or *not run*, is not claimed.
`tools/compatibility.py` writes this page, from `compatibility.json` beside it, which has more of the versions.
"""
OF_MMRAZOR = """\
## mmrazor's own tests of distillation

With this package imported first, which `-p icd_mmrazor` does, from a checkout of mmrazor's main branch:

```bash
git clone https://github.com/open-mmlab/mmrazor && cd mmrazor
python -m pytest -p icd_mmrazor \\
    tests/test_models/test_algorithms/test_{datafree_distill,ofd_algo,self_distill,single_teacher_distill}.py \\
    tests/test_models/test_{distillers,losses} tests/test_models/test_architectures/test_{connectors,generators} \\
    tests/test_core/test_{delivers,recorders} tests/test_engine/test_hooks/test_stop_distillation_hook.py \\
    tests/test_runners/test_distill_val_loop.py tests/test_models/test_algorithms/test_base_algorithm.py
```

63 of these 64 tests pass (commit 90c7af1 of mmrazor, `3.11-onedl`, torch 2.14.1).
One fails, `TestLosses::test_dafl_loss`:
it expects a `RuntimeError` for a process group that is missing, and torch raises a `ValueError` now.

Past mmrazor's version gates alone five more fail:
a plain `torch.load` of torch 2.6 and later does not read mmengine's checkpoints,
`KDSoftCELoss` has a placeholder for a function of mmcls,
and mmengine's validation takes the last of a model's predictions where they are a dictionary.
"""
COMMANDS = """\
## Run it yourself

One environment, or all of them without a name; each is built first:

```bash
python tools/compatibility.py 3.10-onedl --python 3.10=/opt/python3.10/bin/python
```

For each it does:

```bash
pip install -c requirements/constraints.txt -e '.[onedl,demo,test]'  # or openmmlab
OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist worksteal
```

The oldest torch has other pins than the constraints: PINS.
"""


def constraints_of(cell: Cell) -> str:
    """Return pip's constraints for an environment."""
    replaced = {pin.partition('==')[0] for pin in cell.pins}
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line.partition('==')[0] not in replaced]
    return '\n'.join([*lines, *cell.pins, ''])


def find_interpreter(version: str, named: dict[str, str]) -> str:
    """Return the interpreter of a version of Python: the one that was named, else that on the path."""
    file = shutil.which(named.get(version, f'python{version}'))
    remedy = f'Name one: --python {version}=FILE'
    if file is None:
        raise SettingError(f'Python {version}: {named.get(version, f"python{version}")} is not there. {remedy}')
    question = 'import sys; print("{}.{}".format(*sys.version_info))'
    found = subprocess.run([file, '-c', question], capture_output=True, text=True).stdout.strip()
    if found != version:
        raise SettingError(f'Python {version}: {file} is {found or "no Python"}. {remedy}')
    return file


def build(name: str, interpreter: str, folder: Path) -> Path:
    """Make an environment, or bring it up to date, and return its interpreter."""
    environment, constraints = folder / name, folder / f'{name}.txt'
    folder.mkdir(parents=True, exist_ok=True)
    constraints.write_text(constraints_of(CELLS[name]))
    python = environment / 'bin' / 'python'
    install = [python, '-m', 'pip', 'install', '--quiet', '--progress-bar', 'off', '-c', constraints]
    steps = [[*install, '-e', f'.[{CELLS[name].family},demo,test]']]
    if not python.exists():
        steps.insert(0, [interpreter, '-m', 'venv', environment])
    for step in steps:
        if subprocess.run(step, cwd=ROOT).returncode:
            raise UserError(f'{name} could not be built: {" ".join(map(str, step))}')
    return python


def run_tests(python: Path, report: Path, workers: int, tests: Sequence[str]) -> None:
    """Run the tests with an interpreter; pytest's report of them is a file in JUnit's format."""
    report.unlink(missing_ok=True)
    options = ['--numprocesses', str(workers), '--dist', 'worksteal', '-p', 'no:cacheprovider', '--quiet']
    # the tools that the tests start are those of the environment, and nothing comes from elsewhere
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    environment |= {'OMP_NUM_THREADS': '1', 'PATH': f'{python.parent}{os.pathsep}{os.environ["PATH"]}'}
    command = [python, '-m', 'pytest', *options, f'--junitxml={report}', *tests]
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if status not in (0, 1):
        raise UserError(f'pytest ended with status {status} before all tests were run; nothing is recorded.')


def outcomes(report: Path) -> dict[str, Any]:
    """Count what a report in JUnit's format says: passed, skipped with the reasons, and the names of what failed."""
    passed, skipped, failed = 0, Counter(), []
    for case in ElementTree.parse(report).iter('testcase'):
        found = {child.tag: child for child in case}
        if found.keys() & {'failure', 'error'}:
            failed.append(f'{case.get("classname", "").replace(".", "/")}.py::{case.get("name")}')
        elif 'skipped' in found:
            skipped[found['skipped'].get('message', '')] += 1
        else:
            passed += 1
    return {'passed': passed, 'skipped': dict(sorted(skipped.items())), 'failed': sorted(failed)}


def versions(python: Path, family: str) -> dict[str, str]:
    """Return the installed versions that matter."""
    names = ('torch', 'torchvision', *FAMILIES[family], 'mmrazor', 'numpy', 'setuptools')
    code = (
        'import json, platform\nfrom importlib.metadata import version\n'
        f'print(json.dumps(dict(python=platform.python_version(), **{{n: version(n) for n in {names}}})))'
    )
    return json.loads(subprocess.run([python, '-c', code], check=True, capture_output=True, text=True).stdout)


def commit() -> str:
    """Return the commit of the working tree; what has changed since is said by a ``-dirty``."""
    command = ['git', 'describe', '--always', '--dirty', '--exclude=*']
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def read_records() -> dict[str, dict]:
    """Return what has been run, by the names of the environments."""
    return json.loads(RECORDS.read_text()) if RECORDS.is_file() else {}


def page(records: dict[str, dict]) -> str:
    """Return the page that shows what has been run."""
    table = [
        '| environment | Python | torch, torchvision | mmengine, mmcv, mmpretrain | passed | skipped | failed '
        '| minutes | date, commit |',
        '|---|---|---|---|---:|---:|---:|---:|---|',
    ]
    for name, cell in CELLS.items():
        if name not in records:
            table.append(f'| `{name}` | {cell.python} | | {cell.family} | not run | | | | |')
            continue
        record = records[name]
        installed = record['versions']
        family = [f'{package} {installed[package]}' for package in FAMILIES[cell.family]]
        values = [
            f'`{name}`',
            installed['python'],
            f'{installed["torch"]}, {installed["torchvision"]}',
            ', '.join(family),
            record['passed'],
            sum(record['skipped'].values()),
            len(record['failed']),
            record['minutes'],
            f'{record["date"]}, {record["commit"]}',
        ]
        table.append(f'| {" | ".join(map(str, values))} |')
    sections = [INTRODUCTION, '\n'.join(table) + '\n']
    known = {name: records[name] for name in CELLS if name in records}
    if skips := [(n, reason, count) for n, r in known.items() for reason, count in r['skipped'].items()]:
        rows = [f'| `{name}` | {count} | {reason} |' for name, reason, count in skips]
        sections.append('\n'.join(['## Skipped', '', '| environment | tests | reason |', '|---|---:|---|', *rows, '']))
    if failures := [(n, test_name) for n, r in known.items() for test_name in r['failed']]:
        rows = [f'- `{name}`: `{test_name}`' for name, test_name in failures]
        sections.append('\n'.join(['## Failed', '', *rows, '']))
    sections.append(OF_MMRAZOR)
    sections.append(COMMANDS.replace('PINS', ', '.join(f'`{pin}`' for pin in OLDEST_TORCH)))
    return '\n'.join(sections)


def write_page() -> None:
    atomic_write(page(read_records()), PAGE)


def run_cell(name: str, interpreter: str, at: str, args: argparse.Namespace) -> int:
    """Build an environment, run the tests, record what came of it at a commit, and return how many failed."""
    print(f'{name}: building {args.folder / name}', flush=True)
    python = build(name, interpreter, args.folder)
    report, begin = args.folder / f'{name}.xml', time.monotonic()
    run_tests(python, report, args.workers, args.tests)
    record = {
        'date': datetime.date.today().isoformat(),
        'commit': at,
        'minutes': round((time.monotonic() - begin) / 60, 1),
        'versions': versions(python, CELLS[name].family),
        **outcomes(report),
    }
    print(
        f'{name}: {record["passed"]} passed, {sum(record["skipped"].values())} skipped, '
        f'{len(record["failed"])} failed in {record["minutes"]} minutes',
        flush=True,
    )
    if not args.tests:
        atomic_write(json.dumps({**read_records(), name: record}, indent=1) + '\n', RECORDS)
        write_page()
    return len(record['failed'])


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('cells', nargs='*', metavar='ENVIRONMENT', help=f'default: all. {", ".join(CELLS)}')
    parser.add_argument(
        '--python',
        nargs='+',
        default=[],
        metavar='VERSION=FILE',
        help='interpreters, 3.10=/opt/python3.10/bin/python ... (default: python3.10 ... on the path)',
    )
    parser.add_argument(
        '--folder', type=Path, default=Path('work_dirs/matrix'), help='for the environments (default: %(default)s)'
    )
    parser.add_argument('--workers', type=int, default=2, help='processes that run the tests (default: 2)')
    parser.add_argument('--tests', nargs='+', default=[], help='only these; nothing is recorded')
    parser.add_argument('--page', action='store_true', help='only write the page, from what is recorded')
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.cells if name not in CELLS]:
        raise SettingError(f'{", ".join(unknown)}: no such environment. There are {", ".join(CELLS)}.')
    if malformed := [name for name in args.python if '=' not in name]:
        raise SettingError(f'--python {malformed[0]}: give VERSION=FILE, 3.10=/opt/python3.10/bin/python for example.')
    if not (ROOT / 'tests').is_dir():
        raise SettingError(f'{ROOT} holds no tests. Run the tool of a clone of the repository.')
    args.folder = args.folder.resolve()
    return args


def main() -> None:
    args = parse_args()
    if args.page:
        write_page()
        return
    named = dict(name.split('=', 1) for name in args.python)
    names = args.cells or list(CELLS)
    interpreters = {name: find_interpreter(CELLS[name].python, named) for name in names}
    # before the page is written, which changes the working tree
    at = commit()
    failed = {name: run_cell(name, interpreter, at, args) for name, interpreter in interpreters.items()}
    if any(failed.values()):
        raise UserError(', '.join(f'{name}: {count} tests failed' for name, count in failed.items() if count))


if __name__ == '__main__':
    run(main)
