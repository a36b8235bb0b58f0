"""The classifying layer of a network."""

from torch import nn

from icd_mmrazor.errors import SettingError


def find_classifier(model: nn.Module, setting: str | None = None) -> str:
    """Find the linear layer of a classifier that turns its feature into logits.

    It is the one in ``head`` (in the whole model if that has no head, as in mmpretrain's ``TimmClassifier``) that has
    as many outputs as there are classes. ``setting`` can name it instead, for messages.

    Returns:
        Its name in ``model.named_modules()``: ``'head.fc'``.

    Raises:
        SettingError: No layer qualifies, or more than one.
    """
    found = classifying_layers(model)
    if len(found) == 1:
        return found[0]
    kind, classes = type(model).__name__, number_of_classes(model)
    remedy = f'Set {setting} to the name of the one that computes the logits.' if setting else 'Use another network.'
    if found:
        names = ', '.join(found[:8])
        raise SettingError(f'several linear layers of this {kind} may be its classifier: {names}. {remedy}')
    wanted = '' if classes is None else f' with {classes} outputs, its number of classes,'
    raise SettingError(f'this {kind} has no linear layer{wanted} in its head. {_linear_layers(model)} {remedy}')


def classifying_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear layers that may be a network's classifier, see :func:`find_classifier`."""
    head, classes = getattr(model, 'head', None), number_of_classes(model)
    return [
        name
        for name, module in _linear(model)
        if (head is None or module is head or name.startswith('head.')) and classes in (None, module.out_features)
    ]


def _linear(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def _linear_layers(model: nn.Module) -> str:
    layers = ', '.join(f'{name} ({module.out_features} outputs)' for name, module in _linear(model)[-8:])
    return f"The network's last linear layers: {layers or 'none'}."


def number_of_classes(model: nn.Module) -> int | None:
    """Return the number of classes of a classifier of mmpretrain, timm or Hugging Face; None if it does not say."""
    for part, attribute in (('head', 'num_classes'), ('model', 'num_classes'), ('model', 'num_labels')):
        classes = getattr(getattr(model, part, None), attribute, None)
        if isinstance(classes, int):
            return classes
    return None


def number_of_channels(model: nn.Module) -> int:
    """Return the number of channels of a classifier's images: by its first convolution, its normalisation, or 3."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    if (first := next(convolutions, None)) is not None:
        return first.in_channels
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    return 3 if mean is None else mean.numel()


def linear_layer(model: nn.Module, name: str, setting: str) -> nn.Linear:
    """Return a linear layer by its name in ``model.named_modules()``.

    Raises:
        SettingError: It is not a linear layer of the network; ``setting`` is the setting that names it.
    """
    layer = dict(model.named_modules()).get(name) if isinstance(name, str) else None
    if isinstance(layer, nn.Linear):
        return layer
    kind = type(model).__name__
    found = f'is a {type(layer).__name__}' if layer is not None else f'is not a module of this {kind}'
    raise SettingError(
        f'{setting}={name!r} {found}; it must be the linear layer that computes the logits. {_linear_layers(model)}'
    )
