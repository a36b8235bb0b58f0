"""The config files that a distillation writes."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.recipes import BASE

# longest list of classes that is written into a config
INLINE_CLASSES = 20
SMALL, LARGE = 'small', '224'
# sizes that the recipes are written for
SIZES = {SMALL: 32, LARGE: 224}
SIZE_SETTINGS = ('scale', 'crop_size', 'padding', 'img_scale')


def family_of(image_size: int) -> str:
    """Return which recipes are for images of a size."""
    return SMALL if image_size <= 96 else LARGE


def recipe_file(recipe: str, image_size: int) -> str:
    """Return the name of a recipe's file."""
    return f'{recipe}_{family_of(image_size)}.py'


def read_recipe(recipe: str, image_size: int) -> Config:
    """Read a recipe, as a config inherits it."""
    return Config.fromfile(BASE / 'recipes' / recipe_file(recipe, image_size))


def at_size(pipeline: Sequence[Mapping[str, Any]], image_size: int) -> list[dict]:
    """Return a recipe's pipeline for images of another size; all lengths in pixels change alike."""
    factor = image_size / SIZES[family_of(image_size)]

    def scaled(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(scaled, value))
        return round(value * factor) if type(value) is int else value

    return [
        {key: scaled(value) if key in SIZE_SETTINGS else value for key, value in transform.items()}
        for transform in copy.deepcopy([*pipeline])
    ]


def config_text(title: str, bases: Sequence[str], settings: Mapping[str, Any], architecture: bool = False) -> str:
    """Return the text of a config file.

    Args:
        title: The comment on its first line.
        bases: What it inherits from.
        settings: Its own settings.
        architecture: Whether ``model.architecture`` is the model of the base config.
    """
    text = Config(copy.deepcopy(dict(settings))).pretty_text
    if architecture:
        text = text.replace("architecture='_base_.model'", "architecture=_base_.pop('model')")
    base = f'_base_ = {[*bases]!r}\n' if bases else ''
    return f'# {title}\n{base}{text}'


class Images:
    """The settings of the images of a run.

    Args:
        root: The folder of the labelled images.
        work_dir: The folder of the annotation files.
        classes: The names of the classes.
        recipe: The recipe, with the pipelines.
        image_size: Height and width of the images.
        batch_size: Images in a batch.
        workers: Processes that read images.
        numbers: How many images there are to train on, and without labels.
    """

    def __init__(
        self,
        root: Path,
        work_dir: Path,
        classes: Sequence[str],
        recipe: Config,
        image_size: int,
        batch_size: int,
        workers: int,
        numbers: tuple[int, int],
    ) -> None:
        self.root, self.work_dir, self.recipe, self.image_size = root, work_dir, recipe, image_size
        self.batch_size, self.workers, self.numbers = batch_size, workers, numbers
        self.classes = list(classes) if len(classes) <= INLINE_CLASSES else str(work_dir / 'classes.txt')

    def pipeline(self, split: str) -> list[dict]:
        """Return the pipeline of a dataset, ``'train'`` or ``'val'``."""
        return at_size(self.recipe[f'{split}_dataloader'].dataset.pipeline, self.image_size)

    def dataset(self, split: str, pipeline: list[dict]) -> dict[str, Any]:
        """Return the settings of a dataset."""
        return dict(
            data_root=str(self.root),
            ann_file=str(self.work_dir / f'{split}.txt'),
            classes=self.classes,
            pipeline=pipeline,
        )

    def loaders(self) -> dict[str, Any]:
        """Return the settings of the images to train and to validate on."""
        workers = dict(num_workers=self.workers)
        train = dict(batch_size=self.batch_size, **workers, dataset=self.dataset('train', self.pipeline('train')))
        if self.numbers[0] > self.batch_size:
            train['drop_last'] = True  # a batch of one image has no statistics
        val = dict(batch_size=self.batch_size, **workers, dataset=self.dataset('val', self.pipeline('val')))
        return dict(train_dataloader=train, val_dataloader=val, test_dataloader=copy.deepcopy(val))

    @property
    def unlabeled_in_batch(self) -> int:
        """The number of images without labels in a batch: as many as their part, within limits."""
        labeled, without = self.numbers
        part = min(max(without / (labeled + without), 0.25), 0.75)
        return min(max(round(part * self.batch_size), 1), self.batch_size - 1)

    def partly_labeled(self, unlabeled: Path) -> dict[str, Any]:
        """Return the settings of images to train on with and without labels, in batches of both."""
        pipeline = self.pipeline('train')
        return dict(
            batch_sampler=dict(
                type='PartlyLabeledBatchSampler', unlabeled=self.unlabeled_in_batch, epoch_of='labeled', drop_last=False
            ),
            dataset=dict(
                _delete_=True,
                type='PartlyLabeledDataset',
                labeled=dict(type='CustomDataset', **self.dataset('train', pipeline)),
                unlabeled=dict(
                    type='CustomDataset',
                    data_root=str(unlabeled),
                    ann_file=str(self.work_dir / 'unlabeled.txt'),
                    with_label=False,
                    pipeline=copy.deepcopy(pipeline),
                ),
            ),
        )


def probe_settings(images: Images, model: dict, preprocessor: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Return the settings of the training of a teacher's classifier, on images that are always the same."""
    return dict(
        model=model,
        data_preprocessor=dict(_delete_=True, **preprocessor),
        train_dataloader=dict(
            batch_size=min(256, images.numbers[0]),
            drop_last=False,
            dataset=dict(pipeline=images.pipeline('val')),
        ),
        optim_wrapper=dict(_delete_=True, optimizer=dict(type='AdamW', lr=3e-3, weight_decay=1e-4)),
        auto_scale_lr=dict(enable=False),
        train_cfg=dict(max_epochs=epochs),
        default_hooks=dict(average=None),
    )


def is_small_network(model: Mapping[str, Any]) -> bool:
    """Return whether a network is one for images of 32 x 32, as CIFAR's."""
    kind = type_name((model.get('backbone') or {}).get('type'))
    return 'CIFAR' in kind.upper()
