#!/usr/bin/env python3
"""Fuzz what reads files and settings of others, guided by coverage (pip install -e '.[fuzz]').

Whatever a target raises beside the package's own errors is a finding: the run ends with its trace, and the bytes that
led to it are kept in the folder of findings. Give them to the target once more: run.py TARGET --input FILE.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ('config_text', 'network', 'config_options', 'converter', 'training_logs')
# the parsers that decide what is read
INSTRUMENTED = ('icd_mmrazor', 'repdistiller_to_mmpretrain', 'tokenize')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('targets', nargs='*', metavar='TARGET', help=f'of {", ".join(TARGETS)} (default: all)')
    parser.add_argument('--seconds', type=int, default=60, help='for each target (default: 60)')
    parser.add_argument('--corpus', metavar='DIR', help='keep what reached new code, and go on from it')
    parser.add_argument('--findings', metavar='DIR', default='work_dirs/fuzz', help='default: work_dirs/fuzz')
    parser.add_argument('--input', metavar='FILE', help='give these bytes to the target, without fuzzing')
    args = parser.parse_args()
    unknown = sorted({*args.targets} - {*TARGETS})
    if unknown:
        parser.error(f'no target {", ".join(unknown)}; there are {", ".join(TARGETS)}')
    if args.input and len(args.targets) != 1:
        parser.error('--input goes with one target')
    args.targets = args.targets or list(TARGETS)
    return args


def fuzz(name: str, args: argparse.Namespace) -> None:
    """Fuzz one target; ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from targets import TARGETS as FUNCTIONS
        from targets import attempt, seeds
    findings = Path(args.findings)
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='fuzz_') as folder:
        corpus = Path(args.corpus, name) if args.corpus else Path(folder, name)
        corpus.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(seeds()[name]):
            (corpus / f'seed{i}').write_bytes(seed)
        options = [f'-max_total_time={args.seconds}', f'-artifact_prefix={findings}/{name}_', '-timeout=20']
        options += ['-rss_limit_mb=4096', '-max_len=20000', '-print_final_stats=1']
        atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: attempt(FUNCTIONS[name], data))
        atheris.Fuzz()


def main() -> int:
    args = parse_args()
    if args.input:
        from targets import TARGETS as FUNCTIONS
        from targets import attempt

        attempt(FUNCTIONS[args.targets[0]], Path(args.input).read_bytes())
        return 0
    if len(args.targets) == 1:
        fuzz(args.targets[0], args)
    found = []
    for name in args.targets:
        options = [f'--seconds={args.seconds}', f'--findings={args.findings}']
        options += [f'--corpus={args.corpus}'] if args.corpus else []
        process = subprocess.run([sys.executable, __file__, name, *options], env={**os.environ, 'OMP_NUM_THREADS': '1'})
        print(
            f'{name}: {"nothing found" if process.returncode == 0 else f"ended with {process.returncode}"}', flush=True
        )
        found += [name] if process.returncode else []
    return bool(found)


if __name__ == '__main__':
    sys.exit(main())
