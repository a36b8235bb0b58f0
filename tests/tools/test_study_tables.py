"""Tables, figures and pages of studies, trained by a stand-in."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT

from icd_mmrazor.errors import SettingError, UserError

PAIR = 'res20_res8_digits'
RESULTS = ROOT / 'docs' / 'results.json'


def test_a_study_is_trained_in_parts_and_tabled(study: Callable, tool: Callable, capsys: pytest.CaptureFixture) -> None:
    study('--points', 'published', '--methods', 'dcd', '--seeds', '1', '1')
    study()
    study()  # nothing is left to do
    capsys.readouterr()
    Path('page.md').write_text('Before.\n<!-- small: alpha -->\nold\n<!-- end -->\nAfter.\n')
    tool('table').main(['runs', '--json', 'results.json', '--pages', 'page.md', '--figures', 'figures'])
    # the stand-in's accuracies: those of ICD are 20.3 and 21.3 with the seeds, and 1 more at alpha=1
    rows = ['| 0.5 (published) | 20.80 ± 0.71 |', '| 1 | 21.80 ± 0.71 |', '| student alone | 21.20 ± 0.71 |']
    table = '\n'.join(['| weight | ICD, top-1 (%) |', '|---|---:|', *rows])
    assert Path('page.md').read_text() == f'Before.\n<!-- small: alpha -->\n\n{table}\n\n<!-- end -->\nAfter.\n'
    assert table in capsys.readouterr().out
    assert [file.name for file in Path('figures').iterdir()] == ['results_small.png']
    stored = json.loads(Path('results.json').read_text())['small']
    assert [session['trainings'] for session in stored['sessions']] == [1, 7]
    assert {session['slots'] for session in stored['sessions']} == {2}
    (run,) = (run for run in stored['runs'] if (run['point'], run['seed']) == ('two', 0))
    assert run['accuracy'] == 40.3  # the stand-in adds 20 for a second process

    check = ['results.json', '--pages', 'page.md', '--figures', 'figures', '--check']
    tool('table').main(check)
    Path('results.json').write_text(Path('results.json').read_text().replace('"accuracy": 21.3', '"accuracy": 31.3'))
    with pytest.raises(UserError, match=r'page\.md, figures/results_small\.png'):
        tool('table').main(check)


def test_a_part_of_a_study_is_shown_as_what_it_is(
    study: Callable, tool: Callable, capsys: pytest.CaptureFixture
) -> None:
    study('--points', 'published', '--seeds', '1', '3')
    capsys.readouterr()
    tool('table').main(['runs', '--figures', 'figures'])
    shown = capsys.readouterr().out
    assert '| ICD | 22.30 ± 1.41 (seeds 1, 3) | -0.40 |' in shown
    assert '| 1 | not run |' in shown
    assert not Path('figures').exists()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('Nothing.\n', 'STUDY: PART'),
        ('<!-- small: alpha -->\nlost?\n<!-- small: table -->\n<!-- end -->\n', 'end -->'),
        ('<!-- small: alhpa -->\n<!-- end -->\n', "'alhpa'. Did you mean alpha"),
        ('<!-- smal: alpha -->\n<!-- end -->\n', "'smal'. Did you mean small"),
    ],
)
def test_a_page_that_cannot_be_filled_stays(text: str, message: str, study: Callable, tool: Callable) -> None:
    study('--points', 'published', '--methods', 'icd', '--seeds', '0')
    Path('page.md').write_text(text)
    with pytest.raises(SettingError, match=f'--pages page.md: .*{message}'):
        tool('table').main(['runs', '--pages', 'page.md', '--figures', 'figures'])
    assert Path('page.md').read_text() == text
    assert not Path('figures').exists()


def test_where_results_go_is_checked_first(study: Callable, tool: Callable, capsys: pytest.CaptureFixture) -> None:
    study('--points', 'published', 'alpha-1', '--seeds', '0')
    Path('page.md').write_text('<!-- small: alpha -->\n<!-- end -->\n')
    capsys.readouterr()
    for option, place in (('--figures', 'page.md'), ('--json', 'page.md/results.json'), ('--json', 'runs')):
        with pytest.raises(SettingError, match=f'{option} {place}'):
            tool('table').main(['runs', '--pages', 'page.md', option, place])
    assert Path('page.md').read_text() == '<!-- small: alpha -->\n<!-- end -->\n'


@pytest.mark.parametrize('text', ['{"accuracy/top1": 71.5}', '[1]', '{"own": {"runs": []}}', '{'])
def test_a_file_that_holds_no_results_is_refused(text: str, tool: Callable, tmp_path: Path) -> None:
    (tmp_path / 'metrics.json').write_text(text)
    with pytest.raises(SettingError, match=r'metrics\.json cannot be read'):
        tool('table').main([str(tmp_path / 'metrics.json')])


def test_seeds_with_different_options_are_not_averaged(arguments: list[str], run: ModuleType, tool: Callable) -> None:
    for seed, more in ((0, []), (1, ['optim_wrapper.optimizer.lr=0.01'])):
        run.main([*arguments, *more, '--seeds', str(seed)])
    with pytest.raises(SettingError, match='different options'):
        tool('table').main(['runs'])


def test_methods_of_two_views_have_their_own_table(
    arguments: list[str], run: ModuleType, tool: Callable, capsys: pytest.CaptureFixture
) -> None:
    methods = arguments.index('kd+dcd')
    arguments[methods] = 'mlkd'
    run.main([*arguments[:methods], 'kd', 'simkd', *arguments[methods:]])
    capsys.readouterr()
    tool('table').main(['runs'])
    one, two = capsys.readouterr().out.split('Two views of each image in a batch, not to be compared with one:')
    rows = re.compile(r'^\| (\w[^|]*) \|', re.MULTILINE)
    assert rows.findall(one) == ['teacher', 'student alone', 'KD', 'SimKD (larger student)']
    assert rows.findall(two) == ['teacher', 'MLKD']
    assert 'over the student alone' not in two


def test_a_table_of_many_methods_has_the_best_first(tool: Callable) -> None:
    parts, results = tool('studies'), tool('results')
    methods = 'kd', 'at', 'sp', 'cc', 'rkd', 'pkt', 'nst', 'crd', 'icd', 'icd+kd', 'student'
    facts = dict(point='published', pair=PAIR, epochs=8, options=[], seconds=1.0, resumed=False)
    accuracies = (('crd', 0, 50.0), ('crd', 1, 60.0), ('icd', 0, 54.0), ('student', 0, 56.0))
    runs = [dict(facts, methods=name, seed=seed, accuracy=accuracy) for name, seed, accuracy in accuracies]
    for number in len(methods), 10:
        study = parts.Study('', [PAIR], {'published': parts.Point(methods[:number])})
        found = results.Results('own', study, dict(runs=runs)).study.points['published'].methods
        assert found[:3] == (('student', 'crd', 'icd') if number == len(methods) else methods[:3])
        assert sorted(found) == sorted(methods[:number])


def test_docs_show_the_stored_results() -> None:
    """The page's means, again from the file of results."""
    runs = json.loads(RESULTS.read_text())['cifar10-5k']['runs']
    page = (ROOT / 'docs' / 'results.md').read_text()
    for methods, name in (('student', 'student alone'), ('icd', 'ICD'), ('icd+kd', r'ICD\+KD'), ('sp', 'SP')):
        values = [r['accuracy'] for r in runs if (r['methods'], r['pair']) == (methods, 'res56_res20_cifar10-5k')]
        (shown,) = re.findall(rf'^\| {name} \| ([\d.]+) ± [\d.]+ \| [-+.\d ]*\| [\d.]+ \|', page, re.MULTILINE)[:1]
        assert len(values) == 3
        assert float(shown) == pytest.approx(sum(values) / 3, abs=0.006)
