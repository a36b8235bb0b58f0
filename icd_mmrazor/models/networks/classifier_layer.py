"""The classifying layer of a network."""

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.heads import ClsHead
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.distillation_token import token_classifiers
from icd_mmrazor.models.networks.pooled_feature import PooledFeature
from icd_mmrazor.models.networks.retrieval import ENCODER, is_retriever

NO_CLASSIFIER = (
    'has no classifier, and therefore no logits. Train a linear one on its feature first (TeacherProbe), or use a '
    'method that compares features, such as ICDDistiller without kd.'
)


def find_classifier(model: nn.Module, setting: str | None = None) -> str:
    """Find the linear layer of a classifier that turns its feature into logits.

    It is the one in ``head`` that has as many outputs as there are classes; in the whole model if that has no head, as
    in mmpretrain's ``TimmClassifier``; in the backbone if the head has no layers, as with mmpretrain's ``VGG``.
    ``setting`` can name it instead, for messages.

    Returns:
        Its name in ``model.named_modules()``: ``'head.fc'``.

    Raises:
        SettingError: No layer qualifies, or more than one.
    """
    found = classifying_layers(model)
    if len(found) == 1:
        return found[0]
    kind, classes = type(model).__name__, number_of_classes(model)
    if is_headless(model):
        of_student = 'has no classifier. Give it a head, or num_classes if it is of timm or Hugging Face.'
        raise SettingError(f'this {kind} {of_student if setting == "student_source" else NO_CLASSIFIER}')
    remedy = f'Set {setting} to the name of the one that computes the logits.' if setting else 'Use another network.'
    if found:
        names = ', '.join(found[:8])
        raise SettingError(f'several linear layers of this {kind} may be its classifier: {names}. {remedy}')
    wanted = '' if classes is None else f' with {classes} outputs, its number of classes,'
    raise SettingError(f'this {kind} has no linear layer{wanted} in its head. {_linear_layers(model)} {remedy}')


def is_headless(network: nn.Module) -> bool:
    """Return whether a network has no classifying layer, so that it has a pooled feature, but no logits.

    So is mmpretrain's ``ImageClassifier`` without a head, its ``ImageToImageRetriever``, a network of timm with
    ``num_classes=0``, and a network without ``head`` and number of classes whose last layer is not linear.
    """
    classes = getattr(network, 'num_classes', None)
    if pooling_layer(network) or (type(classes) is int and classes == 0):
        return True
    if hasattr(network, 'head'):
        return network.head is None or isinstance(network.head, nn.Identity | PooledFeature)
    if isinstance(network, BaseBackbone):
        return classes in (None, -1)
    inner = getattr(network, 'model', None)
    if type(classes := getattr(inner, 'num_classes', None)) is int:
        return classes == 0
    if number_of_classes(network) is not None or len(classifying_layers(network)) == 1:
        return False
    leaves = [module for module in network.modules() if not any(module.children()) and not _passes_on(module)]
    return not (leaves and isinstance(leaves[-1], nn.Linear))


def pooling_layer(network: nn.Module) -> str | None:
    """Return the name of the module that returns the feature of a network without a classifier, if it has one.

    It is the ``image_encoder`` of mmpretrain's ``ImageToImageRetriever``.
    """
    if is_retriever(network):
        return ENCODER
    return next((name for name, module in network.named_children() if isinstance(module, PooledFeature)), None)


def _passes_on(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity | nn.Dropout | nn.Flatten | nn.Softmax | nn.LogSoftmax)


def classifying_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear layers that may be a network's classifier, see :func:`find_classifier`."""
    if of_tokens := token_classifiers(model):
        return [of_tokens.class_token]
    part, classes = 'backbone' if _classifies_in_backbone(model) else 'head', number_of_classes(model)
    anywhere = getattr(model, part, None) is None
    return [
        name
        for name, module in _linear(model)
        if (anywhere or name == part or name.startswith(f'{part}.')) and classes in (None, module.out_features)
    ]


def _classifies_in_backbone(model: nn.Module) -> bool:
    """Return whether the classifier is a part of the backbone, as in mmpretrain's VGG, AlexNet and LeNet5."""
    classes = getattr(getattr(model, 'backbone', None), 'num_classes', None)
    without_layer = type(getattr(model, 'head', None)) is ClsHead
    return without_layer and isinstance(classes, int) and classes > 0


def _linear(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def _linear_layers(model: nn.Module) -> str:
    layers = ', '.join(f'{name} ({module.out_features} outputs)' for name, module in _linear(model)[-8:])
    return f"The network's last linear layers: {layers or 'none'}."


def number_of_classes(model: nn.Module) -> int | None:
    """Return the number of classes of a classifier of mmpretrain, timm or Hugging Face; None if it does not say."""
    if _classifies_in_backbone(model):
        return model.backbone.num_classes
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
