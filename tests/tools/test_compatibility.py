"""tools/compatibility.py: its page agrees with what is recorded, its matrix with what is claimed, pytest is read."""

import configparser
import json
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
from helpers import ROOT, TOOLS, exit_status
from mmengine.utils import digit_version

TOOL = TOOLS / 'compatibility.py'
MATRIX = runpy.run_path(str(TOOL))
CELLS = MATRIX['CELLS']


def test_the_page_shows_what_is_recorded() -> None:
    records = json.loads(MATRIX['RECORDS'].read_text()) if MATRIX['RECORDS'].is_file() else {}
    assert records.keys() <= CELLS.keys()
    text = MATRIX['PAGE'].read_text()
    assert text == MATRIX['page'](records), 'python tools/compatibility.py --page'
    rows = {row.split('`')[1]: row for row in text.splitlines() if row.startswith('| `') and row.count('|') == 10}
    assert rows.keys() == CELLS.keys()
    for name, row in rows.items():
        assert ('not run' in row) == (name not in records)
    for name, record in records.items():
        assert {str(record['passed']), str(len(record['failed'])), str(record['minutes'])} <= set(
            re.findall(r'[\d.]+', rows[name])
        )
        assert record['date'] in rows[name]
        assert record['versions']['torch'] in rows[name]


def test_what_is_claimed_is_in_the_matrix() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    claimed = set(re.findall(r'Python :: (3\.\d+)', setup['metadata']['classifiers']))
    assert claimed <= {cell.python for cell in CELLS.values()}
    assert setup['options']['python_requires'].removeprefix('>=') == min(claimed, key=digit_version)
    # the oldest that is required is what is tested
    required = dict(re.findall(r'^(torch|torchvision)>=([\d.]+)$', setup['options']['install_requires'], re.MULTILINE))
    pins = dict(pin.split('==') for pin in MATRIX['OLDEST_TORCH'])
    assert {name: f'{version}.0' for name, version in required.items()} == {name: pins[name] for name in required}
    assert all(cell.family in setup['options.extras_require'] for cell in CELLS.values())


def test_pins_replace_those_of_the_constraints() -> None:
    names = MATRIX['constraints_of'](CELLS['3.10-onedl']).splitlines()
    oldest = MATRIX['constraints_of'](CELLS['3.10-onedl-oldest-torch']).splitlines()
    assert [line for line in oldest if line.startswith('torch==')] == ['torch==2.10.0']
    replaced = {pin.partition('==')[0] for pin in MATRIX['OLDEST_TORCH']}
    assert {line for line in names if line.partition('==')[0] not in replaced} < set(oldest)
    assert len(names) == len(oldest)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['2.7-onedl'], r'2\.7-onedl: no such environment\. There are 3\.10-onedl, '),
        (['--python', 'python3'], r'--python python3: give VERSION=FILE'),
        (['3.10-onedl', '--python', '3.10=/none'], r'Python 3\.10: /none is not there\. Name one: --python 3\.10=FILE'),
        (['3.13-onedl', '--python', '3.13=/bin/true'], r'Python 3\.13: /bin/true is no Python\. Name one'),
    ],
    ids=['environment', 'form', 'absent', 'other'],
)
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert exit_status(TOOL, *arguments, '--folder', tmp_path / 'matrix') == 1
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


OUTCOMES = """
import pytest
def test_good(): pass
@pytest.mark.parametrize('n', [1, 2])
def test_bad(n): assert n == 2
@pytest.mark.skip('needs a GPU')
def test_skipped(): pass
@pytest.fixture
def broken(): raise OSError
def test_error(broken): pass
"""


def test_a_run_is_recorded(tmp_path: Path) -> None:
    """Of this environment, with some tests in place of the suite; it replaces the earlier one."""
    (tmp_path / 'test_some.py').write_text(OUTCOMES)
    (tmp_path / 'records.json').write_text(json.dumps({'3.13-onedl': {'failed': ['all']}}))
    run_tests = MATRIX['run_tests']
    packages = 'python', 'torch', 'torchvision', *MATRIX['FAMILIES']['onedl']
    here = {
        'RECORDS': tmp_path / 'records.json',
        'PAGE': tmp_path / 'page.md',
        'build': lambda *_: Path(sys.executable),
        'run_tests': lambda python, report, workers, _: run_tests(python, report, workers, [str(tmp_path)]),
        'versions': lambda *_: dict.fromkeys(packages, '1.2.3'),
    }
    arguments = MATRIX['parse_args'](['3.13-onedl', '--folder', str(tmp_path), '--workers', '0'])
    with mock.patch.dict(MATRIX['run_cell'].__globals__, here):
        assert MATRIX['run_cell']('3.13-onedl', sys.executable, 'abc1234-dirty', arguments) == 2
    record = json.loads((tmp_path / 'records.json').read_text())['3.13-onedl']
    assert (record['passed'], record['skipped']) == (2, {'needs a GPU': 1})
    assert [name.rpartition('/')[2] for name in record['failed']] == [
        'test_some.py::test_bad[1]',
        'test_some.py::test_error',
    ]
    text = (tmp_path / 'page.md').read_text()
    assert f'| 2 | 1 | 2 | {record["minutes"]} | {record["date"]}, abc1234-dirty |' in text
    assert '| `3.13-onedl` | 1 | needs a GPU |' in text
    assert all(f'- `3.13-onedl`: `{name}`' in text for name in record['failed'])
