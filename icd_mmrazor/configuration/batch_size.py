"""The size of the training batches, for losses that are built for it."""

from collections.abc import Mapping

from icd_mmrazor.configuration.type_names import dicts, type_name

# their setting batch_size is the number of images in a batch of one process
BUILT_FOR_BATCHES = ('SemCKDLoss',)


def tell_losses(cfg: Mapping) -> None:
    """Give losses of batches of one size that of the training, in a config of a run, unless they have one.

    Args:
        cfg: The config. Nothing changes if it does not say the size, as with a ``batch_sampler`` of one's own.
    """
    size = (cfg.get('train_dataloader') or {}).get('batch_size')
    model = cfg.get('model')
    if size is None or not isinstance(model, Mapping):
        return
    for part in dicts(model.get('distiller')):
        if type_name(part.get('type')) in BUILT_FOR_BATCHES:
            part.setdefault('batch_size', size)
