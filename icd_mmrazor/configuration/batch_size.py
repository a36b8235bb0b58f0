"""The size of the training batches, for losses that are built for it."""

from collections.abc import Mapping

from icd_mmrazor.configuration.type_names import dicts, registered, type_name

# a batch has both views of its images
TWO_VIEWS = 'TwoViewDataset'


def tell_losses(cfg: Mapping) -> None:
    """Give losses of batches of one size that of the training, in a config of a run, unless they have one.

    Args:
        cfg: The config. Nothing changes if it does not say the size, as with a ``batch_sampler`` of one's own.
    """
    loader, model = cfg.get('train_dataloader') or {}, cfg.get('model')
    size, dataset = loader.get('batch_size'), loader.get('dataset')
    if type(size) is not int or not isinstance(model, Mapping):
        return
    if isinstance(dataset, Mapping) and type_name(dataset.get('type')) == TWO_VIEWS:
        size *= 2
    for part in dicts(model.get('distiller')):
        if any(getattr(kind, 'built_for_batches', False) for kind in registered(type_name(part.get('type')) or '')):
            part.setdefault('batch_size', size)
