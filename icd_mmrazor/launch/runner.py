"""The runner of our tools."""

import logging
from typing import Any

from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from icd_mmrazor.checkpoints.resuming import checkpoint_to_resume, explain_damage
from icd_mmrazor.compat.messages import drop_log_noise
from icd_mmrazor.errors import CheckpointError
from icd_mmrazor.launch.signals import spare_workers

STARTS = ('before_train_epoch', 'before_val_epoch', 'before_test_epoch')


class ToolRunner(Runner):
    """mmengine's runner, which resumes from the latest checkpoint that is not damaged and leaves errors alone.

    mmengine takes what the file ``last_checkpoint`` says, which may be empty, damaged, or in a folder that was moved,
    and starts from scratch if there is no such file.

    The console log is held back until the first epoch: an error in the config or the data would otherwise stand below
    the versions of the environment, the flags that torch was compiled with and the config. The log file has them at
    once.
    """

    def load_or_resume(self) -> None:
        """Load or resume a checkpoint.

        Raises:
            CheckpointError: It is damaged; the message names the latest valid one. Or none is left.
        """
        if self._resume and self._load_from is None and not self._has_loaded:
            self._load_from = checkpoint_to_resume(self.work_dir)
            self._resume = self._load_from is not None
        try:
            super().load_or_resume()
        except CheckpointError as error:
            raise (explain_damage(self._load_from, error) if self._resume else error) from error

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """Build a DataLoader whose workers survive the signal that ends a training after an iteration."""
        loader = Runner.build_dataloader(*args, **kwargs)
        return spare_workers(loader) if loader.num_workers else loader

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """Build an evaluator whose results need no folder that all processes see.

        mmengine's default exchanges files in the working folder. A metric with a ``collect_dir`` keeps doing so.
        """
        built = super().build_evaluator(evaluator)
        for metric in built.metrics if self.distributed else ():
            if isinstance(metric, BaseMetric) and metric.collect_dir is None:
                metric.collect_device = 'gpu'  # by the process group; on a CPU, too
        return built

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger; hold back the lines for the console."""
        logger = super().build_logger(*args, **kwargs)
        drop_log_noise(logger)
        self._held = [_HeldBack(each) for each in logger.handlers if type(each) is logging.StreamHandler]
        return logger

    def leave_out_start(self) -> None:
        """Keep what is held back out of the console, apart from warnings."""
        for held in self._held:
            held.records = [record for record in held.records if record.levelno >= logging.WARNING]

    def show_warnings(self) -> None:
        """Print the warnings that are held back, and from now on nothing else."""
        while self._held:
            held = self._held.pop()
            held.console.setLevel(logging.WARNING)
            held.release()

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks; print what was held back when the first epoch starts."""
        while fn_name in STARTS and self._held:
            self._held.pop().release()
        super().call_hook(fn_name, **kwargs)


# not a MemoryHandler, which Python before 3.12 flushes when it ends
class _HeldBack(logging.Filter):
    """The lines of a console until they are released."""

    def __init__(self, console: logging.Handler) -> None:
        super().__init__()
        self.console = console
        self.records: list[logging.LogRecord] = []
        console.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return False

    def release(self) -> None:
        self.console.removeFilter(self)
        for record in self.records:
            if record.levelno >= self.console.level:
                # not handle(), whose filter of repeated warnings has seen it
                self.console.emit(record)
