"""Images are normalised, features of a frozen network stay as they are."""

from typing import Any

from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ProbeDataPreprocessor(ClsDataPreprocessor):
    """mmpretrain's ``ClsDataPreprocessor``, which also lets features pass that were computed before.

    :class:`LinearProbe` has it unless its config names another. Arguments are those of ``ClsDataPreprocessor``.

    Config example::

        data_preprocessor=dict(type='ProbeDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3)
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: ``inputs``: images, as ``ClsDataPreprocessor`` takes them, or features, ``B x E``, which come with
                their ``data_samples`` from ``FrozenFeatureHook`` and were prepared there.
            training: Whether augmentations of whole batches are done; of images only.

        Returns:
            ``inputs`` and ``data_samples``.
        """
        inputs = data['inputs']
        return data if isinstance(inputs, Tensor) and inputs.ndim == 2 else super().forward(data, training)
