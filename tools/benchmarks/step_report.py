"""The tables and the figure of tools/benchmarks/step_time.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# the columns of a table and, from below, the parts of a bar
PARTS = ('data', 'teacher', 'student', 'losses', 'networks', 'backward', 'optimizer', 'rest')
# Okabe and Ito's colours, which the colour-blind tell apart
COLOURS = {
    'data': '#E69F00',
    'teacher': '#0072B2',
    'student': '#56B4E9',
    'losses': '#CC79A7',
    'networks': '#0072B2',
    'backward': '#009E73',
    'optimizer': '#F0E442',
    'rest': '#999999',
}
LABELS = {'losses': 'distillation losses', 'networks': 'teacher, student, losses: compiled', 'rest': 'everything else'}
HATCHES = {'networks': '///'}
LINES = {'fp32': '-', 'tf32': '-.', 'bf16': ':'}


def line(case: dict[str, Any]) -> str:
    """Say of a case what matters most, for the screen."""
    loops = (
        f'{name} {milliseconds(loop["seconds"])} ({loop["ratio"]["median"]:.2f})'
        for name, loop in case['contenders'].items()
    )
    return f'{case["pair"]}, batch {case["batch_size"]}, ms a step: ' + ', '.join(loops)


def markdown(results: dict[str, Any]) -> str:
    machine, settings, cases = results['machine'], results['settings'], results['cases']
    facts = ', '.join(f'{name} {value}' for name, value in machine.items() if name != 'processor')
    lines = ['# Time of a training step', '', f'{machine["processor"]}: {facts}.', '']
    methods, rounds = '+'.join(settings['methods']), settings['rounds']
    lines += [
        f'Method {methods}. Medians over {rounds} rounds, in which the loops take turns; in brackets the quartiles. '
        'Ratios are taken within a round. Parts are timed in rounds of their own; `rest` is what no part has. '
        'A limit is the operations of a step (convolutions and matrix products alone, two a multiplication) at the '
        'speed of one large matrix product or convolution, whichever is faster. `memory` is the most that tensors take '
        'beyond what is there between steps.',
        '',
    ]
    for name, options in results['contenders'].items():
        what = 'the loop of research scripts (plain_loop.py)' if options is None else ' '.join(options) or 'no option'
        lines.append(f'- {name}: {what}')
    for pair in dict.fromkeys(case['pair'] for case in cases):
        of_pair = [case for case in cases if case['pair'] == pair]
        lines += ['', f'## {pair}', '', *steps_table(of_pair), '', *limits_table(of_pair)]
    return '\n'.join([*lines, *growth_tables(results['growth'])]) + '\n'


def steps_table(cases: Sequence[dict]) -> list[str]:
    used = {part for case in cases for loop in case['contenders'].values() for part in loop['parts']}
    parts = [part for part in PARTS if part in used]
    on_gpu = any('busy' in loop for case in cases for loop in case['contenders'].values())
    first = next(iter(cases[0]['contenders']))
    head = ['batch', 'loop', 'ms a step', f'of {first}', *parts, 'rest (%)', 'memory (MB)']
    rows = [head + ['GPU busy (%)', 'waits a step'] * on_gpu]
    for case in cases:
        for name, loop in case['contenders'].items():
            times = [f'{1e3 * loop["parts"][part]:.1f}' if part in loop['parts'] else '' for part in parts]
            row = [case['batch_size'], name, milliseconds(loop['seconds']), spread(loop['ratio']), *times]
            row += [f'{100 * loop["rest_share"]["median"]:.1f}', f'{loop["memory_mb"]:.0f}']
            if on_gpu:
                row += [f'{100 * loop["busy"]:.0f}', f'{loop["synchronisations"]:.1f}']
            rows.append(row)
    return table(rows)


def limits_table(cases: Sequence[dict]) -> list[str]:
    precisions, names = list(cases[0]['limit_seconds']), list(cases[0]['contenders'])
    kinds = [(kind, name) for name, by_kind in cases[0]['flops_per_second'].items() for kind in by_kind]
    head = ['batch', 'GFLOP a step', *(f'{kind} in {name} (GFLOP/s)' for kind, name in kinds)]
    rows = [[*head, *(f'limit in {name} (ms)' for name in precisions)]]
    with_icd = cases[0]['icd_alone_seconds'] is not None
    if with_icd:
        rows[0] += ['ICD alone (ms)', *(f'of {name} (%)' for name in names)]
    for case in cases:
        row = [case['batch_size'], f'{sum(case["flops"].values()) / 1e9:.1f}']
        row += [f'{case["flops_per_second"][name][kind]["median"] / 1e9:.0f}' for kind, name in kinds]
        row += [f'{1e3 * case["limit_seconds"][name]:.1f}' for name in precisions]
        if with_icd:
            row += [milliseconds(case['icd_alone_seconds'])]
            row += [f'{100 * case["contenders"][name]["icd_alone_share"]["median"]:.1f}' for name in names]
        rows.append(row)
    return table(rows)


def growth_tables(growth: dict[str, Any]) -> list[str]:
    lines = []
    if 'batch_size' in growth:
        at = f'batch {growth["at_batch_size"]}'
        rows = [['batch', 'ICD alone (ms)'], *([n, milliseconds(s)] for n, s in growth['batch_size'].items())]
        lines += ['', '## Growth', '', *table(rows)]
        rows = [['classes', f'ms a step, {growth["pair"]}, {at}, defaults']]
        lines += ['', *table([*rows, *([n, milliseconds(s)] for n, s in growth['classes'].items())])]
        precisions = list(next(iter(growth['teacher'].values())))
        rows = [[f'teacher, forward, {at} (ms)', *(n if n == 'plain' else f'ours, {n}' for n in precisions)]]
        rows += [[name, *map(milliseconds, by.values())] for name, by in growth['teacher'].items()]
        lines += ['', *table(rows)]
    if 'ranks' in growth:
        rows = [['processes', 'ICD over all of them (ms)']]
        rows += [[ranks, f'{1e3 * seconds:.2f}'] for ranks, seconds in growth['ranks'].items()]
        lines += ['', *table(rows)]
    return lines


def milliseconds(seconds: dict[str, Any]) -> str:
    return spread({name: 1e3 * seconds[name] for name in ('median', 'lower', 'upper')})


def spread(values: dict[str, float]) -> str:
    digits = 2 if values['median'] < 10 else 1
    return '{:.{d}f} [{:.{d}f}, {:.{d}f}]'.format(values['median'], values['lower'], values['upper'], d=digits)


def table(rows: Sequence[Sequence[Any]]) -> list[str]:
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [
        '| ' + ' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + ' |' for row in texts
    ]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    return lines


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw one panel a pair: a bar a loop and batch size, of the parts of a step, and the arithmetic limits as lines.

    Args:
        results: What step_time.json holds.
        file: ``.png`` or ``.svg``.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    cases = results['cases']
    pairs = list(dict.fromkeys(case['pair'] for case in cases))
    names = list(results['contenders'])
    batches = len({case['batch_size'] for case in cases})
    width = max(5.5, 1.6 + 0.55 * batches * (len(names) + 1))
    figure = Figure(figsize=(min(width, 16), 1.5 + 3.4 * len(pairs)), layout='constrained')
    panels = figure.subplots(len(pairs), 1, squeeze=False).flatten()
    seen: set[str] = set()
    for panel, pair in zip(panels, pairs, strict=True):
        of_pair = [case for case in cases if case['pair'] == pair]
        ticks = {}
        for group, case in enumerate(of_pair):
            start, scale = group * (len(names) + 1), 1e3 / case['batch_size']
            for place, (name, loop) in enumerate(case['contenders'].items(), start=start):
                ticks[place] = name
                bottom = 0.0
                for part in (part for part in PARTS if part in loop['parts']):
                    height = scale * loop['parts'][part]
                    style = dict(color=COLOURS[part], hatch=HATCHES.get(part), edgecolor='white', linewidth=0.4)
                    panel.bar(place, height, 0.8, bottom, **style)
                    bottom += height
                    seen.add(part)
                seconds = {key: scale * loop['seconds'][key] for key in ('median', 'lower', 'upper')}
                error = [[seconds['median'] - seconds['lower']], [seconds['upper'] - seconds['median']]]
                panel.errorbar(
                    place, seconds['median'], error, fmt='D', markersize=4, color='black', mfc='white', capsize=3
                )
            for precision, limit in case['limit_seconds'].items():
                ends = [start - 0.5, start + len(names) - 0.5]
                outline = [withStroke(linewidth=3, foreground='white')]
                panel.plot(ends, [scale * limit] * 2, LINES[precision], color='black', path_effects=outline)
            style = dict(transform=panel.get_xaxis_transform(), ha='center', va='top', fontsize=9)
            panel.text(start + (len(names) - 1) / 2, 0.98, f'batch {case["batch_size"]}', **style)
        panel.set_title(pair, fontsize=10, parse_math=False)
        panel.set_xticks(list(ticks), list(ticks.values()), rotation=30 if batches > 2 else 0, parse_math=False)
        panel.set_ylabel('ms an image')
        panel.set_ylim(top=1.15 * panel.get_ylim()[1])
        panel.grid(axis='y', alpha=0.3)
        panel.set_axisbelow(True)
    handles: list[Any] = [
        Patch(facecolor=COLOURS[part], hatch=HATCHES.get(part), edgecolor='white', label=LABELS.get(part, part))
        for part in PARTS
        if part in seen
    ]
    marker = dict(marker='D', linestyle='none', mfc='white', color='black')
    handles.append(Line2D([], [], label='the whole step, with quartiles', **marker))
    handles += [
        Line2D([], [], linestyle=LINES[name], color='black', label=f'arithmetic limit in {name}')
        for name in cases[0]['limit_seconds']
    ]
    figure.legend(handles=handles, loc='outside upper center', ncols=3, fontsize=8, frameon=False)
    figure.savefig(file, dpi=150)
