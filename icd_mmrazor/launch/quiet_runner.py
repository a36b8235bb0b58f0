"""A runner that prints nothing until its work starts."""

import logging
from logging.handlers import MemoryHandler
from typing import Any

from mmengine.logging import MMLogger

from icd_mmrazor.engine.runner import ResumableRunner

STARTS = ('before_train_epoch', 'before_val_epoch', 'before_test_epoch')


class QuietRunner(ResumableRunner):
    """A runner with the console log held back until the first epoch.

    An error in the config or the data then stands alone, in place of below the versions of the environment, the
    flags that torch was compiled with and the config. The log file has all lines at any time.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger; hold back the lines for the console."""
        logger = super().build_logger(*args, **kwargs)
        self._held: list[MemoryHandler] = []
        for console in [each for each in logger.handlers if type(each) is logging.StreamHandler]:
            held = MemoryHandler(1 << 20, flushLevel=logging.CRITICAL + 1, target=console, flushOnClose=False)
            held.setLevel(console.level)
            logger.removeHandler(console)
            logger.addHandler(held)
            self._held.append(held)
        return logger

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks; print what was held back when the first epoch starts."""
        if fn_name in STARTS:
            self._release()
        super().call_hook(fn_name, **kwargs)

    def _release(self) -> None:
        while self._held:
            held = self._held.pop()
            held.flush()
            self.logger.removeHandler(held)
            self.logger.addHandler(held.target)
