"""The runner of our tools."""

from mmengine.runner import Runner

from icd_mmrazor.checkpoints.resuming import checkpoint_to_resume, explain_damage
from icd_mmrazor.errors import CheckpointError


class ResumableRunner(Runner):
    """mmengine's runner, which resumes from the latest checkpoint that is not damaged.

    mmengine takes what the file ``last_checkpoint`` names, which may be empty, damaged, or in a folder that was moved.
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
