"""A distillation of small networks."""

from collections.abc import Callable
from typing import Any

import pytest
from mmrazor.registry import MODELS
from torch import nn


@pytest.fixture
def algorithm(network: Callable, teacher_file: Callable) -> Callable[..., nn.Module]:
    def build(**settings: Any) -> nn.Module:
        name = settings.pop('teacher', 'res20')
        teacher = network(name) if isinstance(name, str) else name
        defaults = dict(architecture=network('res8'), teacher=teacher, distiller=dict(type='ICDDistiller'))
        if 'teacher_ckpt' not in settings:
            settings['teacher_ckpt'] = teacher_file(name if isinstance(name, str) else 'res20')
        return MODELS.build({'_scope_': 'mmrazor', 'type': 'FrozenTeacherDistill', **defaults, **settings})

    return build
