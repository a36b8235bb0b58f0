"""What is wrong with networks and losses that do not fit each other, found by running them."""

import contextlib
import traceback
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from icd_mmrazor.configuration.building import describe
from icd_mmrazor.errors import SettingError, UserError

# what layers raise for an input that does not fit
MISFITS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
# what data samples hold them in
LABELS = ('gt_label', 'gt_score')


@contextlib.contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and each of its modules back into the mode that it had.

    Args:
        network: The network.

    Yields:
        Nothing.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def explained_pass(what: str, images: Tensor, **networks: nn.Module) -> Iterator[None]:
    """Turn what fails inside, where networks see a batch for the first time, into a message that names the layer.

    Lost connections to other processes, a lack of memory and what a GPU reports stay what they are.

    Args:
        what: What is run, for the message.
        images: The batch, ``B x C x H x W``.
        **networks: Those that are run, by the setting that describes them; ``model`` stands for ``model`` itself.

    Yields:
        Nothing.

    Raises:
        SettingError: Something failed; the error itself is its cause.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except MISFITS as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if str(error).startswith(('CUDA error', 'cuDNN error')):
            raise
        if any(frame.f_globals.get('__name__', '').startswith('torch.distributed') for frame in frames):
            raise
        modules = [frame.f_locals.get('self') for frame in frames]
        inner = next((module for module in reversed(modules) if isinstance(module, nn.Module)), None)
        names = {m: f'{setting}.{name}' for setting, n in networks.items() for name, m in n.named_modules() if name}
        place = '' if inner in (None, *networks.values()) else f' in {names.get(inner, "a layer")}, {_one_line(inner)}'
        if isinstance(error, AttributeError) and error.name in LABELS:
            raise SettingError(
                f'{what}: the images have no labels, which are read{place}. Give a dataset with labels, or leave out '
                'what reads them.'
            ) from error
        shape = tuple(images.shape) if isinstance(images, Tensor) else f'a {type(images).__name__}'
        raise SettingError(
            f'{what}: images of shape {shape} fail{place}. {describe(error)}. Correct the settings of that layer: what '
            'it takes is what the one before it gives, and the images are those of the dataset.'
        ) from error


def _one_line(module: nn.Module) -> str:
    """Write a layer as torch prints it, or of one with others inside the class alone."""
    return type(module).__name__ if next(module.children(), None) else ' '.join(repr(module).split())[:100]
