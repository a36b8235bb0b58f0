"""How mmengine runs: stored configs, batches of a resumed run."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.logging import MessageHub

from icd_mmrazor.configuration.stored import with_infinity_as_number

REMEMBERED_CONFIGS = 8


def format_a_config_once() -> None:
    """Remember the texts of the last few configs that were formatted, and write infinity so that Python reads it.

    Where: mmengine, both families, ``Config.pretty_text``: it runs yapf for every checkpoint, 0.05 s for one of our
    configs and 0.4 s for one with long paths, and writes infinity as ``inf``, a name that a config file does not know.
    """
    format_config = Config.pretty_text.fget
    known: dict[str, str] = {}

    def pretty_text(self: Config) -> str:
        # classes by their whole paths
        config = f'{self.to_dict()!r} {getattr(self, "_format_python_code", True)}'
        if config not in known:
            if len(known) >= REMEMBERED_CONFIGS:
                known.clear()
            known[config] = with_infinity_as_number(format_config(self))
        return known[config]

    Config.pretty_text = property(pretty_text)


def take_batches_from(loop: Any, batches: Iterator) -> None:
    """Let an ``IterBasedTrainLoop`` take its batches from an iterator that starts at the iteration where it resumes.

    Where: mmengine, both families, ``IterBasedTrainLoop``: it makes its own iterator before hooks can change the
    DataLoader, and a resumed run skips the batches that were trained already by loading them (0.10.7; onedl-mmengine
    0.10.12 for other samplers than its own).
    """
    # onedl-mmengine calls skip_iter once, 0.10.7 asks for each of the batches
    passed_over = 0 if hasattr(loop.dataloader_iterator, 'skip_iter') else loop.iter
    loop.dataloader_iterator = _Batches(batches, passed_over)


class _Batches:
    def __init__(self, batches: Iterator, passed_over: int) -> None:
        self.batches = batches
        self.passed_over = passed_over

    def skip_iter(self, num_iters: int) -> None:
        """Skip nothing: the iterator starts at the next unseen batch."""

    def __next__(self) -> Any:
        if self.passed_over:
            self.passed_over -= 1
            return None
        return next(self.batches)


def current_iteration() -> int:
    """Return how many iterations the training has done, -1 before it starts, without waiting for any lock.

    Where: mmengine, both families, ``ManagerMixin``: ``get_instance`` keeps the lock of all loggers, message hubs and
    visualizers for good if it raises. The main thread may take it again; any other waits for ever.
    """
    hubs = list(MessageHub._instance_dict.values())
    return hubs[-1].get_info('iter', -1) if hubs else -1
