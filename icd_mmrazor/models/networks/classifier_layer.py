"""Where the classifying layer of a network is."""

from torch import nn

from icd_mmrazor.errors import SettingError


def find_classifier(model: nn.Module, setting: str | None = None) -> str:
    """Find the last linear layer of a classifier: what turns its feature into logits.

    It is the linear layer of ``head`` (of the whole model where there is no head, as in mmpretrain's
    ``TimmClassifier``) that has as many outputs as there are classes.

    Args:
        model: The classifier.
        setting: What names the layer where it cannot be found, for messages: ``'student_source'``.

    Returns:
        Its name in ``model.named_modules()``: ``'head.fc'``.

    Raises:
        SettingError: No layer qualifies, or more than one.
    """
    found = classifying_layers(model)
    if len(found) == 1:
        return found[0]
    remedy = f'Set {setting} to the name of the one that computes the logits.' if setting else 'Take another network.'
    if found:
        raise SettingError(
            f'{len(found)} linear layers of this {type(model).__name__} may be its classifier: '
            f'{", ".join(found[:8])}. {remedy}'
        )
    classes = number_of_classes(model)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    wanted = '' if classes is None else f' with {classes} outputs, its number of classes,'
    layers = ', '.join(f'{name} ({module.out_features} outputs)' for name, module in list(linear.items())[-8:])
    raise SettingError(
        f'this {type(model).__name__} has no linear layer{wanted} in its head. Its last linear layers: '
        f'{layers or "none"}. {remedy}'
    )


def classifying_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear layers that may be a network's classifier, as :func:`find_classifier` has it.

    Args:
        model: The network.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = getattr(model, 'head', None)
    within = {n: m for n, m in linear.items() if n.startswith('head.') or m is head} if head is not None else linear
    classes = number_of_classes(model)
    return [name for name, module in within.items() if classes in (None, module.out_features)]


def number_of_classes(model: nn.Module) -> int | None:
    """Return how many classes a classifier tells apart, or None where it does not say.

    Args:
        model: An ``ImageClassifier``, whose head says it, or a wrapper of a network of timm or Hugging Face.
    """
    for part, attribute in (('head', 'num_classes'), ('model', 'num_classes'), ('model', 'num_labels')):
        classes = getattr(getattr(model, part, None), attribute, None)
        if isinstance(classes, int):
            return classes
    return None


def number_of_channels(model: nn.Module) -> int:
    """Return how many channels the images of a classifier have.

    Args:
        model: The classifier. Its first convolution says it; without any, its normalisation; else there are three.
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    if (first := next(convolutions, None)) is not None:
        return first.in_channels
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    return 3 if mean is None else mean.numel()


def linear_layer(model: nn.Module, name: str, setting: str) -> nn.Linear:
    """Return a linear layer by its name.

    Args:
        model: The network.
        name: Name of the layer in ``model.named_modules()``.
        setting: The setting that names it, for messages: ``'student_source'``.

    Raises:
        SettingError: It is not a linear layer of the network.
    """
    modules = dict(model.named_modules())
    layer = modules.get(name)
    if isinstance(layer, nn.Linear):
        return layer
    found = f'is a {type(layer).__name__}' if layer is not None else 'is not a module of the network'
    linear = [each for each, module in modules.items() if isinstance(module, nn.Linear)]
    raise SettingError(
        f'{setting}={name!r} {found}; it must be the linear layer that computes the logits. Linear layers of this '
        f'{type(model).__name__}: {", ".join(linear[-8:]) or "none"}.'
    )
