"""Sanity checks of a run."""

from collections.abc import Sequence

from mmengine.registry import HOOKS

from icd_mmrazor import checks
from icd_mmrazor.datasets.class_names import CHOICES
from icd_mmrazor.engine.checks import (
    AverageCheck,
    BatchCheck,
    LabelCheck,
    MetricCheck,
    NumberCheck,
    PreparationCheck,
    ProvenanceCheck,
    ScheduleCheck,
    StatisticsCheck,
    ValidationCheck,
    ViewCheck,
    WeightCheck,
)
from icd_mmrazor.engine.composite import CompositeHook


@HOOKS.register_module()
class SanityCheckHook(CompositeHook):
    """Refuse runs that would fail late, or train something else than is meant.

    ===============  ===================================================================================================
    ``resume``       settings, teacher or data differ from those of the checkpoint that is resumed
    ``weights``      weights to start with do not fill the network, or are of classes with other names
    ``labels``       labels or class names of the datasets do not fit the classifier, or are missing where they are read
    ``batches``      training batches hang the processes or train nothing
    ``views``        a loss compares two views of each image, and a batch has one
    ``preparation``  the channels of the images come in another order than the teacher was trained on
    ``validation``   a metric reads labels that the images do not have, or what the predictions do not contain
    ``averages``     weights are validated that no checkpoint holds (``EMAHook``)
    ``schedules``    a schedule of epochs in a training that counts iterations (a warning)
    ``statistics``   the training is too short for the statistics of the student's BatchNorm (a warning)
    ``metrics``      a watched metric (``save_best``, a plateau, early stopping) is not a number of the validation
    ``numbers``      a loss or a weight is not finite
    ===============  ===================================================================================================

    Args:
        resume_changes: What to do about changes on resume: ``'refuse'``, or ``'list'`` to log them and continue.
        partial_weights: Likewise, about weights that fill less than half of a network.
        class_names: Likewise, about weights of classes with other names.
        skip: Names of checks to leave out, from the table above.

    Raises:
        SettingError: An argument is something else.

    Config example::

        default_hooks=dict(sanity_check=dict(type='SanityCheckHook', class_names='list', skip=['batches']))
    """

    def __init__(
        self,
        resume_changes: str = 'refuse',
        partial_weights: str = 'refuse',
        class_names: str = 'refuse',
        skip: Sequence[str] = (),
    ) -> None:
        checks.one_of(self, 'resume_changes', resume_changes, CHOICES)
        checks.one_of(self, 'partial_weights', partial_weights, CHOICES)
        checks.one_of(self, 'class_names', class_names, CHOICES)
        parts = {
            'resume': ProvenanceCheck(resume_changes),
            'weights': WeightCheck(partial_weights, class_names),
            'labels': LabelCheck(),
            'batches': BatchCheck(),
            'views': ViewCheck(),
            'preparation': PreparationCheck(),
            'validation': ValidationCheck(),
            'averages': AverageCheck(),
            'schedules': ScheduleCheck(),
            'statistics': StatisticsCheck(),
            'metrics': MetricCheck(),
            'numbers': NumberCheck(),
        }
        for name in skip if isinstance(skip, list | tuple) else [skip]:
            checks.one_of(self, 'skip', name, parts)
        super().__init__(part for name, part in parts.items() if name not in skip)
