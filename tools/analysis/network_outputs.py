"""Features and logits that trained classifiers compute from images."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from torch import Tensor, nn

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly, weights_of
from icd_mmrazor.datasets.class_names import class_names
from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.export.network import build_network
from icd_mmrazor.models.networks.classifier_layer import find_classifier


@dataclass
class Network:
    """A trained classifier.

    Attributes:
        name: Its name in figures and messages.
        model: The classifier, in eval mode.
        classifier: Name of its classifying linear layer in ``model.named_modules()``.
        source: Where its weights come from, for messages.
        classes: The names of the classes that it was trained on; None if the file does not say.
    """

    name: str
    model: nn.Module
    classifier: str
    source: str = ''
    classes: Sequence[str] | None = None

    @property
    def num_classes(self) -> int:
        """The number of its logits."""
        return self.model.get_submodule(self.classifier).out_features


@dataclass
class Outputs:
    """Features and logits of N images.

    Attributes:
        features: The input of its classifying layer, ``N x D``, float32.
        logits: The output of that layer, ``N x C``, float32.
    """

    features: np.ndarray
    logits: np.ndarray


def load_network(name: str, cfg: ConfigDict, checkpoint: str | os.PathLike, source: str, setting: str) -> Network:
    """Build a classifier and load its weights strictly.

    Args:
        name: Its name in messages.
        cfg: The classifier's config.
        checkpoint: The file; from a distillation's checkpoint the student is taken.
        source: Name of its classifying linear layer, or ``'auto'`` to find it.
        setting: The setting that names this layer, for messages.

    Returns:
        The network, in eval mode on mmengine's device.

    Raises:
        SettingError: The config cannot be built, or no linear layer is the classifier.
        CheckpointError: The file is not one of this network.
    """
    content, what = read_checkpoint(checkpoint), f'{name}: checkpoint {checkpoint}'
    weights = weights_of(content, checkpoint)
    model = build_network(name, cfg)
    load_strictly(model, weights, what)
    if source == 'auto':
        source = find_classifier(model, setting)
    elif not isinstance(dict(model.named_modules()).get(source), nn.Linear):
        raise SettingError(
            f"{setting}={source!r} is not a linear layer of this {type(model).__name__}. Set it to 'auto'."
        )
    classes = class_names(content.get('meta'))
    return Network(name, model.to(get_device()).eval(), source, what, classes)


@dataclass
class Images:
    """A labelled dataset, or some of its images.

    Attributes:
        loader_cfg: The dataloader's config with the built dataset.
        labels: The label of each image of the dataset.
        chosen: Indices of the chosen images, ascending.
        classes: Names of the classes; empty if the dataset has none.
    """

    loader_cfg: dict
    labels: np.ndarray
    chosen: np.ndarray
    classes: Sequence[str]

    @classmethod
    def from_cfg(cls, loader_cfg: ConfigDict, setting: str = 'test_dataloader') -> 'Images':
        """Build a dataset and read its labels.

        Args:
            loader_cfg: A dataloader's config.
            setting: The setting that holds it, for messages.

        Returns:
            All its images.

        Raises:
            DatasetError: Its images are missing, or do not have one label each.
        """
        dataset = DATASETS.build(loader_cfg['dataset'])
        labels = image_labels(dataset)
        if labels is None:
            raise DatasetError(
                f'{setting}.dataset ({type(dataset).__name__}, {len(dataset)} images) does not have one label for each '
                'image. Name a dataset of labelled images.'
            )
        classes = tuple(getattr(dataset, 'metainfo', {}).get('classes') or ())
        return cls({**loader_cfg, 'dataset': dataset}, labels, np.arange(len(labels)), classes)

    def choose(self, classes: Sequence[int], at_most: int | None, seed: int) -> 'Images':
        """Return the images of some classes.

        Args:
            classes: The classes' numbers.
            at_most: The largest number of images, drawn at random; None takes all.
            seed: Seed of the draw.
        """
        chosen = np.flatnonzero(np.isin(self.labels, classes))
        if at_most is not None and len(chosen) > at_most:
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, at_most, replace=False))
        return Images(self.loader_cfg, self.labels, chosen, self.classes)

    @property
    def chosen_labels(self) -> np.ndarray:
        """The labels of the chosen images."""
        return self.labels[self.chosen]

    def class_name(self, number: int) -> str:
        """Return the name of a class, or its number if it has none."""
        return str(self.classes[number]) if number < len(self.classes) else str(number)


def network_outputs(networks: Sequence[Network], images: Images) -> list[Outputs]:
    """Run networks on the same images, as in an evaluation: eval mode, no gradients, no autocast.

    Args:
        networks: The networks.
        images: The images; each is read once.

    Returns:
        The outputs of each network, in the order of ``images.chosen``.

    Raises:
        CheckpointError: The logits of a network are not finite.
    """
    # mmengine passes a sampler that is not a config to torch, which takes any sequence of indices
    once = dict(sampler=images.chosen.tolist(), drop_last=False, persistent_workers=False, pin_memory=False)
    loader = Runner.build_dataloader({**images.loader_cfg, **once})
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in networks]
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for network, kept in zip(networks, parts, strict=True):
            stack.enter_context(_recorded(network, kept))
        for batch in track_iter_progress((loader, len(loader))):
            for network in networks:
                network.model.test_step(batch)
    print()  # after mmengine's progress bar
    outputs = []
    for network, kept in zip(networks, parts, strict=True):
        features, logits = (torch.cat(tensors).numpy() for tensors in zip(*kept, strict=True))
        if not np.isfinite(logits).all():
            raise CheckpointError(
                f'{network.name}: its logits are not finite. Give the checkpoint of a training that did not diverge.'
            )
        outputs.append(Outputs(features, logits))
    return outputs


@contextlib.contextmanager
def _recorded(network: Network, kept: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Keep input and output of the classifying layer."""

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append((inputs[0].float().cpu(), output.float().cpu()))

    handle = network.model.get_submodule(network.classifier).register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()
