"""Several distillers in one distillation."""

import contextlib
from collections.abc import Iterator

from mmrazor.models.distillers import BaseDistiller
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError


def initialise_from_teacher(distiller: nn.Module, teacher: nn.Module) -> None:
    """Let ``OFDDistiller`` read the teacher's batch norms, as mmrazor does in a separate algorithm class."""
    if hasattr(distiller, 'init_ofd_connectors'):
        distiller.init_ofd_connectors(teacher)


def networks_needed_by(distiller: nn.Module) -> set[str]:
    """Return which of ``'student'`` and ``'teacher'`` a distiller needs in its current stage: both by default."""
    return getattr(distiller, 'needed_networks', {'student', 'teacher'})


def plain_distillers(distiller: nn.Module) -> list[nn.Module]:
    """Return the distillers in a ``MixedDistiller``, at any depth, or any other distiller itself."""
    inside = getattr(distiller, 'distillers', None)
    return [distiller] if inside is None else [each for part in inside.values() for each in plain_distillers(part)]


def named_distillers(distiller: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    """Yield the same as :func:`plain_distillers`, each with what the names of its losses start with: ``'icd.'``."""
    inside = getattr(distiller, 'distillers', None)
    if inside is None:
        yield prefix, distiller
        return
    for name, part in inside.items():
        yield from named_distillers(part, f'{prefix}{name}.')


@MODELS.register_module()
class MixedDistiller(BaseDistiller):
    """Any registered distillers side by side on one teacher and student.

    A loss is named after its distiller: ``icd.loss_icd``, ``ofd.loss_1``. If one of them trains in two stages
    (``FeatureDistiller``), the others start with the main stage. Initial stages run together, at the lowest
    ``initial_lr`` that one of them has.

    Args:
        distillers: Config of each distiller by its name, a word that does not contain "loss" (mmengine adds up
            everything with "loss" in its name).
        init_cfg: Same as in mmengine's ``BaseModule``.

    Raises:
        SettingError: There is no distiller, a name is not allowed, or initial stages differ in length.

    Config example::

        distiller=dict(
            type='MixedDistiller',
            distillers=dict(
                icd=dict(type='ICDDistiller'),
                ofd=dict(type='OFDDistiller', ...)))
    """

    def __init__(self, distillers: dict[str, dict], init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if not distillers or not isinstance(distillers, dict):
            raise SettingError(
                f'MixedDistiller: distillers={distillers!r} must name at least one, as in '
                'distillers=dict(icd=dict(type="ICDDistiller")).'
            )
        for name in distillers:
            if not isinstance(name, str) or not name.isidentifier() or 'loss' in name or hasattr(nn.ModuleDict, name):
                raise SettingError(
                    f'MixedDistiller: {name!r} in distillers must be a word without "loss" that torch does not use '
                    'itself, such as "icd".'
                )
        self.distillers = nn.ModuleDict({name: MODELS.build(cfg) for name, cfg in distillers.items()})
        self.staged = {name: d for name, d in self.distillers.items() if getattr(d, 'initial_epochs', 0)}
        epochs = {name: distiller.initial_epochs for name, distiller in self.staged.items()}
        if len(set(epochs.values())) > 1:
            raise SettingError(
                f'MixedDistiller: initial_epochs differ, {epochs}, but initial stages run together. Give all the same.'
            )
        self.initial_epochs = next(iter(epochs.values()), 0)
        rates = [distiller.initial_lr for distiller in self.staged.values() if distiller.initial_lr is not None]
        self.initial_lr = min(rates, default=None)
        self.stage = None if self.staged else 'main'

    @property
    def student_recorders(self) -> contextlib.AbstractContextManager:
        """All recorders of the student, as one context."""
        return self._all('student_recorders')

    @property
    def teacher_recorders(self) -> contextlib.AbstractContextManager:
        """All recorders of the teacher, as one context."""
        return self._all('teacher_recorders')

    @property
    def deliveries(self) -> contextlib.AbstractContextManager:
        """All deliveries, as one context."""
        return self._all('deliveries')

    @contextlib.contextmanager
    def _all(self, name: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for distiller in self.distillers.values():
                stack.enter_context(getattr(distiller, name))
            yield

    def set_deliveries_override(self, override: bool) -> None:
        """Set whether the deliveries hand out what they recorded (to the student) or record (from the teacher)."""
        for distiller in self.distillers.values():
            distiller.set_deliveries_override(override)

    def set_stage(self, stage: str) -> None:
        """Set the stage, ``'initial'`` or ``'main'``, of those that have two."""
        self.stage = stage
        for distiller in self.staged.values():
            distiller.set_stage(stage)

    def set_progress(self, epoch: int, iteration: int) -> None:
        """Set weights that change over time to those of an epoch and iteration, both counted from 0."""
        for distiller in self.distillers.values():
            if hasattr(distiller, 'set_progress'):
                distiller.set_progress(epoch, iteration)

    @property
    def needed_networks(self) -> set[str]:
        """The networks whose features are compared in this stage."""
        return set().union(*(networks_needed_by(distiller) for distiller in self._active().values()))

    def _active(self) -> dict[str, nn.Module]:
        return self.staged if self.stage == 'initial' else dict(self.distillers.items())

    def prepare_from_student(self, model: nn.Module) -> None:
        """Prepare each distiller for the student."""
        for distiller in self.distillers.values():
            distiller.prepare_from_student(model)

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Prepare each distiller for the teacher, its weights loaded."""
        for distiller in self.distillers.values():
            distiller.prepare_from_teacher(model)
            initialise_from_teacher(distiller, model)

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute the losses of each distiller, by its name and theirs: ``icd.loss_icd``."""
        losses: dict[str, Tensor] = {}
        for name, distiller in self._active().items():
            losses.update(add_prefix(distiller.compute_distill_losses(), name))
        return losses
