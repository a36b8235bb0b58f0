"""A file backend of mmengine's that writes files whole or not at all."""

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from icd_mmrazor.checkpoints.writing import write_checkpoint_file


@register_backend('atomic')
class AtomicBackend(LocalBackend):
    """The local disk; a file is written next to its place and then renamed.

    mmengine's own backend writes in place, so that a killed run or a full disk leaves half a file instead of a whole
    one. Config example::

        default_hooks=dict(checkpoint=dict(type='CheckpointHook', backend_args=dict(backend='atomic')))
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Args:
            obj: Its content.
            filepath: Its path; the folder is made if need be.

        Raises:
            CheckpointError: It cannot be written.
        """
        write_checkpoint_file(obj, filepath)
