"""Readable errors for shape mismatches in the first forward pass."""

import contextlib
import traceback
from collections.abc import Iterator

from torch import Tensor, nn

from icd_mmrazor.configuration.building import describe
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.memory import out_of_memory

# what layers raise for an input that does not fit
MISFITS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
# the attributes of data samples that hold them
LABELS = ('gt_label', 'gt_score')


@contextlib.contextmanager
def explained_pass(what: str, images: Tensor, **networks: nn.Module) -> Iterator[None]:
    """Turn an error in the first forward pass of networks into a ``SettingError`` that names the layer.

    Lost connections to other processes, a lack of memory and errors of a GPU are raised unchanged.

    Args:
        what: What is run, for the message.
        images: The batch, ``B x C x H x W``.
        **networks: The networks that are run, by the settings that describe them; ``model`` is ``model`` itself.
    """
    try:
        yield
    except UserError:
        raise
    except MISFITS as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        of_processes = any(f.f_globals.get('__name__', '').startswith('torch.distributed') for f in frames)
        if of_processes or out_of_memory(error) or str(error).startswith(('CUDA error', 'cuDNN error')):
            raise
        modules = [module for frame in frames if isinstance(module := frame.f_locals.get('self'), nn.Module)]
        names = {m: f'{setting}.{name}' for setting, n in networks.items() for name, m in n.named_modules() if name}
        layer = modules[-1] if modules and modules[-1] not in networks.values() else None
        place = f' in {names.get(layer, "a layer")}, {_one_line(layer)}' if layer is not None else ''
        if isinstance(error, AttributeError) and error.name in LABELS:
            raise SettingError(
                f'{what}: the images have no labels, which are read{place}. Use a dataset with labels, or remove what '
                'reads them.'
            ) from error
        shape = tuple(images.shape) if isinstance(images, Tensor) else f'a {type(images).__name__}'
        raise SettingError(
            f'{what}: images of shape {shape} fail{place}. {describe(error)}. Correct the settings of that layer, or '
            'the shape of the images: a layer takes what the one before it returns.'
        ) from error


def _one_line(module: nn.Module) -> str:
    """Write a layer as torch prints it, or only the class of one that contains others."""
    return type(module).__name__ if next(module.children(), None) else ' '.join(repr(module).split())[:100]
