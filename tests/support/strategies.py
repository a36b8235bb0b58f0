"""Random configs of distillations, and changes to them."""

import copy
from collections.abc import Iterator
from typing import Any

from helpers import shipped
from hypothesis import strategies as st

# one of each kind of value that a config can hold; of 10**9 channels, some machines would allocate a layer
JUNK = st.sampled_from(
    [None, True, -1, 0, 7, 10**12, -0.5, float('nan'), float('inf'), '', 'nonsense', [], [3, 'a'], {}, {'a': 1}, (1, 2)]
)
NETWORKS = ('res8', 'res14', 'wrn16-1')
# the keys below these are a config's own names
NAMED = ('losses', 'distillers', 'connectors', 'inputs')


def network(name: str, classes: int) -> dict:
    """Return a network's config."""
    cfg = shipped(f'_base_/models/{name}.py')[name.replace('-', '_')].to_dict()
    cfg['head']['num_classes'] = classes
    return cfg


def method(name: str) -> dict:
    """Return a comparator's distiller, without an initial stage."""
    return shipped(f'_base_/methods/{name}.py')[name].to_dict()


@st.composite
def distillers(draw: st.DrawFn) -> dict:
    """Draw the config of a distiller of one or two methods."""
    numbers = st.floats(0.01, 4)
    icd = dict(
        type='ICDDistiller',
        embed_dims=draw(st.integers(2, 16)),
        icd=dict(
            alpha=draw(st.floats(0, 2)),
            max_tau=draw(numbers),
            init_log_tau=draw(st.floats(-2, 2)),
            contrastive_weight=draw(numbers),
            learn_tau=draw(st.booleans()),
        ),
        kd=draw(st.none() | st.builds(dict, tau=numbers, loss_weight=numbers)),
    )
    names = draw(
        st.lists(
            st.sampled_from(['kd', 'fitnet', 'at', 'sp', 'cc', 'vid', 'rkd', 'pkt', 'nst', 'rrd', 'ckd']), max_size=2
        )
    )
    others = {name: method(name) for name in names}
    if not others:
        return icd
    if draw(st.booleans()) or len(others) > 1:
        return dict(type='MixedDistiller', distillers={'icd': icd, **others})
    return next(iter(others.values()))


@st.composite
def distillations(draw: st.DrawFn) -> dict:
    """Draw the config of a ``FrozenTeacherDistill``."""
    classes = draw(st.integers(2, 12))
    # map1, map2, ... of a wide ResNet are as many as of a ResNet, and a regressor bridges their widths
    student, teacher = draw(st.sampled_from(NETWORKS)), draw(st.sampled_from(NETWORKS))
    return dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=network(student, classes),
        teacher=network(teacher, classes),
        random_teacher=True,
        channels_last=draw(st.booleans()),
        distiller=draw(distillers()),
    )


def places(cfg: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the paths to all values in a config."""
    for key, value in cfg.items() if isinstance(cfg, dict) else enumerate(cfg):
        yield (*path, key)
        if isinstance(value, dict | list | tuple):
            yield from places(value, (*path, key))


def settings_of(cfg: dict) -> list[tuple]:
    """Return the paths to all settings whose names are not the config's own."""
    named = (p for p in places(cfg) if isinstance(p[-1], str) and (len(p) < 2 or p[-2] not in NAMED))
    # nothing initialises a teacher, whose weights are loaded
    return [p for p in named if p[-1] != '_scope_' and not {'teacher', 'init_cfg'} <= {*p[:-1]}]


def changed(cfg: dict, path: tuple, value: Any) -> dict:
    """Return a copy of a config with another value."""
    cfg = copy.deepcopy(cfg)
    parent = _parent(cfg, path)
    if isinstance(parent, tuple):
        return changed(cfg, path[:-1], value)
    parent[path[-1]] = value
    return cfg


def misspelt(cfg: dict, path: tuple) -> dict:
    """Return a copy of a config with a letter of a setting's name twice."""
    cfg = copy.deepcopy(cfg)
    parent = _parent(cfg, path)
    parent[path[-1] + path[-1][-1]] = parent.pop(path[-1])
    return cfg


def _parent(cfg: Any, path: tuple) -> Any:
    for key in path[:-1]:
        cfg = cfg[key]
    return cfg
