"""Places and shapes of the named features of a network."""

from mmengine.logging import print_log
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import find_classifier, linear_layer, number_of_channels
from icd_mmrazor.models.networks.features import FeaturePoints, Point, feature_shapes

AUTO = 'auto'
# features that every classifier has, whatever its backbone
OF_CLASSIFIER = ('pooled', 'logits')


def classifying_layer(owner: str, network: str, model: nn.Module, source: str) -> str:
    """Return the name of the linear layer that computes a network's logits.

    Args:
        owner: Class of the distiller, for messages.
        network: ``'student'`` or ``'teacher'``, likewise.
        model: The network.
        source: The name, or ``'auto'``: it is found, and the log says which.

    Raises:
        SettingError: There is no such linear layer, or it cannot be found.
    """
    name = find_classifier(model, f'{network}_source') if source == AUTO else source
    layer = linear_layer(model, name, f'{network}_source')
    if source == AUTO:
        widths = f'{layer.in_features} wide, {layer.out_features} classes'
        print_log(f'{owner}: {network} feature: input of {name}, {widths}', logger='current')
    return name


def find_point(owner: str, network: str, points: FeaturePoints, name: str) -> Point:
    """Return the place of a feature.

    Args:
        owner: Class of the distiller, for messages.
        network: ``'student'`` or ``'teacher'``, likewise.
        points: The features of the network.
        name: Name of the feature.

    Raises:
        SettingError: The network has no such feature.
    """
    known = {
        **{f'map{i}': point for i, point in enumerate(points.maps)},
        **{f'preactivation{i}': point for i, point in enumerate(points.preactivations, start=1)},
        **({'last_map': points.maps[-1]} if points.maps else {}),
        'pooled': points.pooled,
        'logits': points.logits,
    }
    if name not in known:
        raise SettingError(f'{owner}: the {network} has no feature {name!r}. It has {", ".join(known)}.')
    return known[name]


def find_shapes(
    owner: str, model: nn.Module, classifier: str, points: dict[str, Point], image_shape: tuple[int, ...] | None
) -> dict[str, tuple[int, ...]]:
    """Find the shapes of features, without the batch.

    Args:
        owner: Class of the distiller, for messages.
        model: The network.
        classifier: Name of its classifying layer, which knows the shapes of ``pooled`` and ``logits``.
        points: Places of the features by their names. A forward pass finds the shapes of maps.
        image_shape: ``C x H x W`` of the images.

    Raises:
        SettingError: The network does not take such images.
    """
    layer = linear_layer(model, classifier, 'classifier')
    shapes = {'pooled': (layer.in_features,), 'logits': (layer.out_features,)}
    maps = {name: point for name, point in points.items() if name not in OF_CLASSIFIER}
    if not maps:  # images of any size will do
        return shapes
    try:
        found = feature_shapes(model, maps.values(), image_shape)
    except RuntimeError as error:
        shape = image_shape or (number_of_channels(model), 32, 32)
        raise SettingError(
            f'{owner}: image_shape={shape} does not fit the network: {error}. Set distiller.image_shape to the shape '
            'of the images, C x H x W.'
        ) from None
    return {**shapes, **dict(zip(maps, found, strict=True))}
