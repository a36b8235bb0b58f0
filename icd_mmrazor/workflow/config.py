"""The settings of the config files that a distillation writes."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from icd_mmrazor.configuration.image_size import set_image_size
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.recipes import BASE
from icd_mmrazor.workflow.config_text import Expression

# longest list of classes that is written into a config
INLINE_CLASSES = 20
SMALL, LARGE = 'small', '224'
# sizes that the recipes are written for
SIZES = {SMALL: 32, LARGE: 224}
SAME_CLASSES = Expression('classes')


def family_of(image_size: int) -> str:
    """Return which recipes are for images of a size."""
    return SMALL if image_size <= 96 else LARGE


def recipe_file(recipe: str, image_size: int) -> str:
    """Return the name of a recipe's file."""
    return f'{recipe}_{family_of(image_size)}.py'


def read_recipe(recipe: str, image_size: int) -> Config:
    """Read a recipe for images of a size."""
    cfg = Config.fromfile(BASE / 'recipes' / recipe_file(recipe, image_size))
    set_image_size(cfg, image_size)
    return cfg


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
        flip: Whether the mirror image of an image is of the same class.
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
        flip: bool = True,
    ) -> None:
        self.flip = flip
        self.root, self.work_dir, self.recipe, self.image_size = root, work_dir, recipe, image_size
        self.batch_size, self.workers, self.numbers = batch_size, workers, numbers
        self.num_classes = len(classes)
        self.classes = list(classes) if len(classes) <= INLINE_CLASSES else str(work_dir / 'classes.txt')

    @property
    def code(self) -> list[str]:
        """The lines that change the recipe's pipelines, if the images are of another size or not to be mirrored."""
        lines = []
        if self.image_size != SIZES[family_of(self.image_size)]:
            lines += ['from icd_mmrazor.configuration.image_size import set_image_size', '']
            lines += [f'set_image_size(_base_, {self.image_size})']
        kinds = [type_name(transform.type) for transform in self.recipe.train_dataloader.dataset.pipeline]
        if not self.flip and 'RandomFlip' in kinds:
            lines += [f'del _base_.train_dataloader.dataset.pipeline[{kinds.index("RandomFlip")}]  # RandomFlip']
        return lines

    def loaders(self) -> dict[str, Any]:
        """Return the settings of the images to train and to validate on."""
        common = dict(batch_size=self.batch_size, num_workers=self.workers)
        # a batch of one image has no statistics
        last = dict(drop_last=True) if self.numbers[0] > self.batch_size else {}
        mixes = self.recipe.data_preprocessor.get('batch_augments')
        return dict(
            classes=self.classes,
            # mixed labels are vectors of this length
            **(dict(data_preprocessor=dict(num_classes=self.num_classes)) if mixes else {}),
            train_dataloader=dict(**common, **last, dataset=self._dataset('train', SAME_CLASSES)),
            val_dataloader=dict(**common, dataset=self._dataset('val', SAME_CLASSES)),
            test_dataloader=Expression('val_dataloader'),
        )

    def _dataset(self, split: str, classes: Any) -> dict[str, Any]:
        return dict(data_root=str(self.root), ann_file=str(self.work_dir / f'{split}.txt'), classes=classes)

    @property
    def unlabeled_in_batch(self) -> int:
        """The number of images without labels in a batch: their part of all images, within limits."""
        labeled, without = self.numbers
        part = min(max(without / (labeled + without), 0.25), 0.75)
        return min(max(round(part * self.batch_size), 1), self.batch_size - 1)

    @property
    def longer_pass(self) -> str:
        """Which images take more batches, ``'labeled'`` or ``'unlabeled'``: an epoch shows every image."""
        labeled, without = self.numbers
        number = self.unlabeled_in_batch
        return 'unlabeled' if without / number > labeled / (self.batch_size - number) else 'labeled'

    def partly_labeled(self, unlabeled: Path) -> dict[str, Any]:
        """Return the settings of images to train on with and without labels, in batches of both."""
        without = dict(data_root=str(unlabeled), ann_file=str(self.work_dir / 'unlabeled.txt'), with_label=False)
        pipeline = dict(pipeline=Expression('_base_.train_dataloader.dataset.pipeline'))
        return dict(
            batch_size=self.batch_size,
            drop_last=False,
            batch_sampler=dict(
                type='PartlyLabeledBatchSampler', unlabeled=self.unlabeled_in_batch, epoch_of=self.longer_pass
            ),
            dataset=dict(
                _delete_=True,
                type='PartlyLabeledDataset',
                labeled=dict(type='CustomDataset', **self._dataset('train', Expression('_base_.classes')), **pipeline),
                unlabeled=dict(type='CustomDataset', **without, **pipeline),
            ),
        )


def probe_settings(
    images: Images, model: Mapping[str, Any], preprocessor: Mapping[str, Any], epochs: int
) -> dict[str, Any]:
    """Return the settings of the training of a teacher's classifier, on images that are always the same."""
    return dict(
        model=model,
        data_preprocessor=dict(_delete_=True, **preprocessor),
        train_dataloader=dict(
            batch_size=min(256, images.numbers[0]),
            drop_last=images.numbers[0] > 256,
            dataset=dict(pipeline=Expression('_base_.val_dataloader.dataset.pipeline')),
        ),
        optim_wrapper=dict(_delete_=True, optimizer=dict(type='AdamW', lr=3e-3, weight_decay=1e-4)),
        # an epoch on stored features takes less than its checkpoint
        train_cfg=dict(max_epochs=epochs, val_interval=epochs // 2),
        default_hooks=dict(average=None, checkpoint=dict(interval=epochs // 2)),
    )


def with_temperature(distiller: Mapping[str, Any], tau: float) -> dict[str, Any]:
    """Return the config of a distiller whose KD has a temperature."""
    changed = copy.deepcopy(dict(distiller))
    kind = type_name(changed.get('type'))
    if kind == 'ICDDistiller' and isinstance(changed.get('kd'), Mapping):
        changed['kd'] = {**changed['kd'], 'tau': tau}
    if kind == 'KLDivergence' and 'tau' in changed:
        changed['tau'] = tau
    return {
        key: with_temperature(value, tau) if isinstance(value, Mapping) else value for key, value in changed.items()
    }


def is_small_network(model: Mapping[str, Any]) -> bool:
    """Return whether a network is one for images of 32 x 32, as CIFAR's."""
    return 'CIFAR' in type_name((model.get('backbone') or {}).get('type')).upper()
