"""The numbering of the views of a run's training images."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from icd_mmrazor.datasets.fingerprints import fingerprint
from icd_mmrazor.datasets.in_memory import prepared_size
from icd_mmrazor.datasets.keyed_mixing import SETTING, KeyedMixing
from icd_mmrazor.datasets.loaders import NumberedLoader, number_batches
from icd_mmrazor.datasets.pipelines import NotInMemoryError, innermost, pipelines_of, split_pipelines
from icd_mmrazor.datasets.view_numbers import ALL, FIRST, AllViews, FirstView, FixedViews, Views
from icd_mmrazor.errors import SettingError


def number_views(runner: Runner, setting: int | str, seed: int = 0) -> Views:
    """Number the views of the training images of a run that has not started.

    From then on the data samples of a training batch have the numbers of its views in their metadata, as ``view_idx``
    (:func:`~icd_mmrazor.datasets.samples.view_indices`). With a fixed number of views, they also decide what the images
    look like; otherwise the random numbers of the run stay as they are.

    Args:
        runner: The run.
        setting: ``'all'``: all crops and flips of the in-memory pipeline. A number: so many fixed views of an image.
            ``'first'``: one number for all views of an image.
        seed: Seed of fixed views.

    Returns:
        The numbering, which is also the ``views`` of the loop's DataLoader until the training ends.

    Raises:
        SettingError: The run does not take its batches from a dataset by their indices, or the views cannot be
            numbered: a batch has two of each image, for instance.
    """
    name = f'{SETTING}.views={setting!r}'
    numbered = number_batches(runner.train_loop, runner.seed, get_rank())
    if numbered is None:
        raise SettingError(
            f'{name}: train_dataloader does not take its batches from a dataset by their indices, so their images are '
            f'unknown. Use a DataLoader of a dataset with a length, or remove {SETTING}.'
        )
    if reason := two_views_in_batch(numbered.loader.dataset):
        raise SettingError(f'{name}: {reason}. Remove {SETTING}, or train with one view.')
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    mixing = _mixing(model, setting)
    views: Views
    if setting == ALL:
        views = all_views(numbered.loader.dataset)
    else:
        views = FirstView() if setting == FIRST else FixedViews(int(setting), seed, mixing)
    numbered.loader.views = views
    numbered.loader.views_in_use = ViewsInUse(numbered.loader, model)
    return views


def two_views_in_batch(dataset: Any) -> str | None:
    """Return why the views of a dataset cannot be numbered if a batch has two of each image; otherwise None."""
    if getattr(dataset, 'views', 1) == 1:
        return None
    return f'a batch of a {type(dataset).__name__} has two views of each image, and only one has a number'


def all_views(dataset: Any) -> AllViews:
    """Return the numbering of all views that a dataset's pipeline makes of an image.

    Raises:
        SettingError: The pipeline has more than crops and flips.
    """
    try:
        pipeline, images = split_pipelines(dataset)[0], prepared_size(dataset)
    except NotInMemoryError as reason:
        raise no_views_in_memory(reason) from None
    return AllViews.of_pipeline(pipeline, images)


def no_views_in_memory(reason: NotInMemoryError, views: Views | None = None) -> SettingError:
    """Return the error of a run that numbers all views, and whose images are not cropped and flipped in memory.

    Args:
        reason: Why they are not.
        views: The numbering, if the pipeline has one.
    """
    instead = f" instead of the pipeline's {views.number:,}" if views else ''
    return SettingError(
        f"{SETTING}.views='all' needs batches made in memory, and images are prepared one by one: {reason}. Set "
        f'{SETTING}.views to a number of fixed views{instead}; views=1 works with any pipeline.'
    )


class ViewsInUse:
    """The numbering that a loader uses, for as long as its images, their pipeline and their mixing stay the same.

    Once they have changed, the model's teacher cache is told. Fixed views stay fixed, since the run is to have no
    others, unless their mixing has changed; the numbering of all crops and flips ends, since there may be others now.
    """

    def __init__(self, loader: NumberedLoader, model: nn.Module) -> None:
        self.loader, self.model, self.cache = loader, model, getattr(model, 'teacher_cache', None)
        self._made_for, self._annotations = self._state(), _annotations(loader.dataset)

    def look(self) -> None:
        """Notice other images, another pipeline, or another mixing, as mmpretrain's ``SwitchRecipeHook`` sets it."""
        pipelines, mixing = self._state()
        if mixing is not self._made_for[1]:
            if getattr(self.loader.views, 'mixing', None) is not None:  # the views are mixed in the old way
                self.loader.views = None
                self.loader.stop_workers()
            self.end('images are mixed in another way')
        # what makes batches in memory looks at the dataset itself
        elif pipelines != self._made_for[0] or (
            self.loader.make is None and _annotations(self.loader.dataset) != self._annotations
        ):
            self.end()

    def _state(self) -> tuple[str, Any]:
        mixing = getattr(getattr(self.model, 'data_preprocessor', None), 'batch_augments', None)
        # not pickled: a transform may have a state that changes, such as a counter
        return repr(pipelines_of(self.loader.dataset)), mixing

    def end(self, reason: str = 'the training set or its pipeline has changed') -> None:
        """Tell the teacher cache why there are other images now."""
        self.loader.views_in_use = None
        if self.loader.views is not None and self.loader.views.in_memory:
            self.loader.views = None
        if self.cache is not None:
            self.cache.refuse_change(reason)


def _annotations(dataset: Any) -> list[int] | None:
    """Compute checksums of the annotations of mmengine's datasets: other attributes may change with each image."""
    names = 'data_list', 'data_bytes', 'data_address'
    try:
        return [fingerprint([getattr(part, name, None) for name in names]) for part in innermost(dataset)]
    except Exception:  # pickle raises anything
        return None


def _mixing(model: nn.Module, setting: int | str) -> KeyedMixing | None:
    """Return what mixes fixed views as the data preprocessor would mix a batch, if it does."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is None:
        return None
    off = 'data_preprocessor.batch_augments=None (and model.architecture.train_cfg=None)'
    if setting in (ALL, FIRST):
        kinds = [type(each).__name__ for each in getattr(augments, 'augments', [augments]) if each is not None]
        raise SettingError(
            f'{SETTING}.views={setting!r}: {" or ".join(kinds)} mixes other images in each batch, so their views have '
            f'no numbers. Set a number of fixed views, such as views=1, or {off}.'
        )
    if not getattr(preprocessor, 'leaves_mixed_views', False):
        raise SettingError(
            f'{SETTING}.views={setting!r}: a {type(preprocessor).__name__} would mix fixed views again. Set '
            f"data_preprocessor.type='SeparateMixingPreprocessor', or {off}."
        )
    return KeyedMixing(augments, preprocessor.num_classes)
