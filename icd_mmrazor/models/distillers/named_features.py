"""The features of one network by name."""

from collections.abc import Iterable
from dataclasses import replace

from mmengine.logging import print_log
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classified_map import classified_map
from icd_mmrazor.models.networks.classifier_layer import (
    NO_CLASSIFIER,
    find_classifier,
    linear_layer,
    pooling_layer,
)
from icd_mmrazor.models.networks.distillation_token import token_classifiers
from icd_mmrazor.models.networks.features import (
    Layout,
    Point,
    feature_points,
    feature_shapes,
    output_of,
    usual_image_shape,
)
from icd_mmrazor.models.networks.image_size import image_shape_seen
from icd_mmrazor.models.networks.retrieval import embedding_of

AUTO = 'auto'
# features that every classifier has, whatever its backbone
OF_CLASSIFIER = ('pooled', 'embedding', 'logits', 'distillation_logits')
# the map whose average is the pooled feature, in whatever backbone
CLASSIFIED_MAP = 'classified_map'


def of_stages(names: Iterable[str]) -> bool:
    """Return whether some of these features are maps of stages, which are not known of every backbone."""
    return any(name not in (*OF_CLASSIFIER, CLASSIFIED_MAP) for name in names)


class NamedFeatures:
    """Places and shapes of the features of a network.

    Args:
        owner: Class of the distiller, for messages.
        network: ``'student'`` or ``'teacher'``, likewise.
        model: The network.
        source: Name of the linear layer that computes its logits, or ``'auto'``.
        maps: Whether feature maps are wanted, which not every backbone has.

    Raises:
        SettingError: The classifying layer or the maps of the backbone are unknown.
    """

    def __init__(self, owner: str, network: str, model: nn.Module, source: str, maps: bool) -> None:
        self._owner, self._network, self.model = owner, network, model
        pooling = pooling_layer(model)
        # the linear layer; None if there is none, or a stand-in for a teacher whose outputs are stored
        self.classifier: nn.Linear | None = None
        if pooling:
            self.source, classifier = pooling, None
            self.shapes = {'pooled': feature_shapes(model, [embedding_of(model, pooling)])[0]}
        else:
            self.source = find_classifier(model, f'{network}_source') if source == AUTO else source
            layer, classifier = linear_layer(model, self.source, f'{network}_source'), self.source
            self.classifier = None if getattr(model, 'is_stored', False) else layer
            self.shapes = {'pooled': (layer.in_features,)}
            self.shapes |= dict.fromkeys(('logits', 'distillation_logits'), (layer.out_features,))
        if pooling or source == AUTO:
            classes = 'no classifier' if pooling else f'{layer.out_features} classes'
            place = f'{"output" if pooling else "input"} of {self.source}, {self.shapes["pooled"][0]} wide, {classes}'
            print_log(f'{owner}: {network} feature: {place}', logger='current')
        self._layer = classifier or self.source
        known = feature_points(model, maps, classifier)
        # how many there are of what a loss may compare in every stage
        kinds = {'maps': known.maps, 'preactivations': known.preactivations, 'blocks': known.blocks}
        self.counts = {network: {name: len(points) for name, points in kinds.items()}}
        self._known = {
            **{f'map{i}': point for i, point in enumerate(known.maps)},
            **{f'tokens{i}': _in_form('tokens', point) for i, point in enumerate(known.maps) if i},
            **{f'preactivation{i}': point for i, point in enumerate(known.preactivations, start=1)},
            **{f'block{i}': point for i, point in enumerate(known.blocks, start=1)},
            **(_of_last_map(known.maps[-1]) if known.maps else {}),
            # what is compared to search images
            'embedding': known.pooled,
            'pooled': known.pooled,
            **(self._logits(known.logits) if known.logits else {}),
        }
        self.points: dict[str, Point] = {}

    def _logits(self, usual: Point) -> dict[str, Point]:
        """Return the points of logits; a network without a distillation token has them in one place."""
        of_tokens = token_classifiers(self.model)
        if of_tokens and self._network == 'teacher':  # it predicts with both
            usual = output_of(of_tokens.average)
        return {'logits': usual, 'distillation_logits': output_of(of_tokens.distillation_token) if of_tokens else usual}

    def use(self, names: Iterable[str], image_shape: tuple[int, ...] | None) -> None:
        """Find the places and shapes of features; maps need a forward pass with an image of this shape.

        Raises:
            SettingError: The network has no such feature, or does not take such images.
        """
        names = [*names]
        shape = image_shape or usual_image_shape(self.model)
        if self._network == 'teacher':
            shape = image_shape_seen(self.model, shape)
        if CLASSIFIED_MAP in names:
            found = classified_map(self.model, self._layer, shape, f'{self._owner}: the {self._network}')
            self._known[CLASSIFIED_MAP] = found.point
        for name in names:
            if name.endswith('logits') and name not in self._known:
                raise SettingError(f'{self._owner}: the {self._network} {NO_CLASSIFIER}')
            if name not in self._known:
                has = ', '.join(_in_short(self._known))
                raise SettingError(f'{self._owner}: the {self._network} has no feature {name!r}. It has {has}.')
        if 'embedding' in names:
            self.shapes['embedding'] = self.shapes['pooled']
        self.points.update((name, _for_images(self._known[name], shape)) for name in names)
        maps = {name: point for name, point in self.points.items() if name not in OF_CLASSIFIER}
        if not maps:
            return
        try:
            found = feature_shapes(self.model, maps.values(), shape)
        except (RuntimeError, AssertionError) as error:
            raise SettingError(
                f'{self._owner}: the {self._network} does not take images of image_shape={shape}: {error}. Set '
                'distiller.image_shape to the shape of the images, C x H x W.'
            ) from None
        self.shapes.update(zip(maps, found, strict=True))


def _of_last_map(point: Point) -> dict[str, Point]:
    layout = point.layout
    has_one = layout is not None and layout.extra and layout.has_class_token
    class_token = {'class_token': _in_form('class_token', point)} if has_one else {}
    return {'last_map': point, 'patch_tokens': _in_form('tokens', point), **class_token}


def _in_short(names: Iterable[str]) -> list[str]:
    """Return names of features, of many blocks only the first and the last."""
    names = [*names]
    blocks = [name for name in names if name.startswith('block')]
    inner = blocks[1:-1]
    return [f'..., {name}' if inner and name == blocks[-1] else name for name in names if name not in inner]


def _in_form(form: str, point: Point) -> Point:
    return replace(point, layout=replace(point.layout or Layout(), form=form))


def _for_images(point: Point, shape: tuple[int, ...]) -> Point:
    """Let tokens become a map of the form of the images."""
    return replace(point, layout=replace(point.layout, aspect=shape[1] / shape[2])) if point.layout else point
