#!/usr/bin/env python3
"""Write the tables and figures of studies from what run_study.py kept.

    collect_study.py docs/results --pages docs/results.md README.md --figures docs/images

In a page, what stands between the lines "<!-- STUDY: PART -->" and "<!-- end -->" is replaced. The PART is "table" (of
the methods in the published setting), "summary" (its accuracies), the name of an axis of the study, "sittings" (dates,
machines, times), or "published" (the published table of CIFAR-100).
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from study_figures import figures_of
from study_tables import Results, part, read_studies

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.utils.figures import figure_files, save_figure

BEGIN = r'<!-- ([\w-]+): ([\w-]+) -->\n'
# up to its own end: without one nothing of the page is to be lost
BLOCK = re.compile(rf'({BEGIN})(?:(?!<!-- ).)*(<!-- end -->)', re.DOTALL)


def filled(text: str, studies: Mapping[str, Results]) -> str:
    """Return a page with its parts as they were kept.

    Args:
        text: The page.
        studies: As :func:`read_studies` returns them.

    Raises:
        SettingError: It asks for nothing, for a study or a part that is not there, or does not say where a part ends.
    """
    begun = list(re.finditer(BEGIN, text))
    if not begun:
        raise SettingError('it asks for nothing: no line "<!-- STUDY: PART -->" with a "<!-- end -->" behind it.')
    for line in begun:
        if not BLOCK.match(text, line.start()):
            raise SettingError(f'behind {line[0].strip()} there is no <!-- end -->.')

    def fill(block: re.Match) -> str:
        recipes.check_name('study', block[2], list(studies))
        return f'{block[1]}\n{part(studies[block[2]], block[3])}\n\n{block[4]}'

    return BLOCK.sub(fill, text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', metavar='FOLDER', type=Path, help='the --keep of run_study.py')
    parser.add_argument('--pages', nargs='+', default=[], type=Path, metavar='FILE.md', help='pages to fill in')
    parser.add_argument('--figures', type=Path, metavar='FOLDER', help='for the figures of all studies that were run')
    parser.add_argument('--force', action='store_true', help='replace figures that these tools did not draw')
    args = parser.parse_args(arguments)
    studies = read_studies(args.folder)
    with_runs = {name: results for name, results in studies.items() if results.cells}
    if not with_runs:
        raise SettingError(f'{args.folder} holds no study. Give the --keep of tools/benchmarks/run_study.py.')
    for page in args.pages:
        if not page.is_file():
            raise SettingError(f'--pages {page}: there is no such file.')
        check_writable(page, '--pages')
    for name, results in with_runs.items():
        for file in figures_of(name, results) if args.figures else ():
            figure_files(args.figures / f'{file}.png', args.force, '--figures')
    pages = {}
    for page in args.pages:
        try:
            pages[page] = filled(page.read_text(), studies)
        except SettingError as error:
            raise SettingError(f'--pages {page}: {error}') from error
    for page, text in pages.items():
        atomic_write(text, page)
    for name, results in with_runs.items():
        for kind in ['table', *results.study.axes]:
            print(f'{name}: {kind}\n\n{part(results, kind)}\n')
        if args.figures:
            for file, draw in figures_of(name, results).items():
                save_figure(draw(), args.figures / f'{file}.png', args.force)


if __name__ == '__main__':
    run(main)
