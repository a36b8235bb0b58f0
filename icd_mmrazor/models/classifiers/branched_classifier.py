"""A classifier with a replicated last stage."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmrazor.registry import MODELS as LOSSES
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError

FIRST, ENSEMBLE = 'first', 'ensemble'


@MODELS.register_module()
class BranchedClassifier(ImageClassifier):
    """A classifier with several branches that learn from their ensemble (ONE, arXiv 1806.04606).

    The branches share the stem and all stages but the last; each has its own last stage and its own classifying layer.
    Layers between them, such as the last batch norm of a wide ResNet, are shared and see the maps of all branches at
    once. The ensemble's logits are the mean of the branches', weighted by a gate: pooled input of the last stage,
    linear, batch norm, ReLU, softmax. The loss is the sum of the cross-entropies of all branches and of the ensemble
    and, for each branch, an ``OnlineEnsembleLoss``. ``LossScheduleHook`` sets its weight if that changes over time.

    Args:
        backbone: Config of the backbone.
        neck: Config of the neck, which pools.
        head: Config of a ``LinearClsHead``.
        branches: The number of branches.
        last_stage: Name of the backbone's last stage.
        ensemble_loss: Config of the loss between a branch and the ensemble; an ``OnlineEnsembleLoss`` by default.
        predict_by: ``'first'``: only its first branch is run and predicts, a network of the usual size;
            ``'ensemble'``.
        **kwargs: Other arguments of mmpretrain's ``ImageClassifier``.

    Raises:
        SettingError: There is no such stage, it is not the last or has no convolutions, the head is another one, or an
            argument is out of range.

    Config example::

        model = dict(
            type='BranchedClassifier',
            backbone=dict(type='CIFARResNet', depth=20),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=100, in_channels=64, init_cfg=None))
    """

    def __init__(
        self,
        backbone: Any,
        neck: Any,
        head: Any,
        branches: int = 3,
        last_stage: str = 'layer3',
        ensemble_loss: dict | None = None,
        predict_by: str = FIRST,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, neck, head, **kwargs)
        self.branches = checks.positive_int(self, 'branches', branches)
        self.predict_by = checks.one_of(self, 'predict_by', predict_by, (FIRST, ENSEMBLE))
        stage, layer = getattr(self.backbone, last_stage, None), getattr(self.head, 'fc', None)
        if not isinstance(stage, nn.Module) or not isinstance(layer, nn.Linear):
            raise SettingError(
                f'BranchedClassifier: last_stage={last_stage!r} must be a stage of the {type(self.backbone).__name__}, '
                f'and head, a {type(self.head).__name__}, a LinearClsHead.'
            )
        channels = next((module.in_channels for module in stage.modules() if isinstance(module, nn.Conv2d)), None)
        if channels is None:
            raise SettingError(
                f'BranchedClassifier: last_stage={last_stage!r} of the {type(self.backbone).__name__} has no '
                'convolutions. Use a backbone of convolutions with stages.'
            )
        if (last := _last_like(last_stage, self.backbone)) != last_stage:
            raise SettingError(
                f'BranchedClassifier: last_stage={last_stage!r} is followed by {last} in the '
                f'{type(self.backbone).__name__}. Set last_stage={last!r}.'
            )
        self.last_stage = last_stage
        setattr(self.backbone, last_stage, _Fork(_copies(stage, branches)))
        self.head.fc = _ForEach(_copies(layer, branches))
        self.gate = nn.Sequential(nn.Linear(channels, branches), nn.BatchNorm1d(branches), nn.ReLU(), nn.Softmax(1))
        self.ensemble_loss = LOSSES.build({'_scope_': 'mmrazor', 'type': 'OnlineEnsembleLoss', **(ensemble_loss or {})})
        self.progress_is_known = False

    def logits(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the logits of each branch, and those of the ensemble, ``B x C``."""
        found = self.head(self.extract_feat(inputs)).chunk(self.branches)
        gate = self.gate(getattr(self.backbone, self.last_stage).take().mean((2, 3)))
        return found, sum(weight[:, None] * each for weight, each in zip(gate.T, found, strict=True))

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """Run the classifier; with ``mode='tensor'``, return the logits that it predicts by."""
        if mode != 'tensor':
            return super().forward(inputs, data_samples, mode)
        if self.predict_by == ENSEMBLE:
            return self.logits(inputs)[1]
        if self.training:  # shared norms see all branches
            return self.logits(inputs)[0][0]
        with self._first_alone():
            return self.head(self.extract_feat(inputs))

    @contextlib.contextmanager
    def _first_alone(self) -> Iterator[None]:
        """Run no other branch."""
        parts = getattr(self.backbone, self.last_stage), self.head.fc
        for part in parts:
            part.first_alone = True
        try:
            yield
        finally:
            for part in parts:
                part.first_alone = False

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Compute the losses of a batch: of the branches, of the ensemble, and between them.

        Raises:
            SettingError: The weight between them changes over time, which nothing tells, or a batch has one image.
        """
        if self.training and len(inputs) < 2:
            raise SettingError(
                'BranchedClassifier: a training batch has one image, and the gate normalises over a batch. Set '
                'train_dataloader.drop_last=True, or another batch_size.'
            )
        if self.ensemble_loss.scheduled_weight is not None and not self.progress_is_known:
            raise SettingError(
                'BranchedClassifier: ensemble_loss.weight_schedule depends on the epoch, which nothing tells it. Add '
                "default_hooks=dict(loss_schedule=dict(type='LossScheduleHook')) to the config."
            )
        branches, ensemble = self.logits(inputs)
        names = [*(f'loss_branch{i}' for i in range(self.branches)), 'loss_ensemble']
        losses = {
            name: self.head._get_loss(logits, data_samples)['loss']
            for name, logits in zip(names, (*branches, ensemble), strict=True)
        }
        return losses | {'loss_one': sum(self.ensemble_loss(logits, ensemble) for logits in branches)}

    def predict(self, inputs: Tensor, data_samples: list | None = None, **_: Any) -> list:
        """Predict the classes of a batch."""
        return self.head._get_predictions(self.forward(inputs), data_samples)

    def set_progress(self, epoch: int, iteration: int) -> None:
        """Set what changes over time to an epoch and iteration, both counted from 0."""
        self.progress_is_known = True
        self.ensemble_loss.set_progress(epoch, iteration)


class _Fork(nn.ModuleList):
    """Stages that get the same maps; what they return follows each other in the batch."""

    first_alone = False

    def forward(self, maps: Tensor) -> Tensor:
        if self.first_alone:
            return self[0](maps)
        self.__dict__['_seen'] = maps
        return torch.cat([stage(maps) for stage in self])

    def take(self) -> Tensor:
        """Return what they were given, and forget it."""
        return self.__dict__.pop('_seen')


class _ForEach(nn.ModuleList):
    """Layers, each for its part of a batch."""

    first_alone = False

    def forward(self, features: Tensor) -> Tensor:
        if self.first_alone:
            return self[0](features)
        return torch.cat([layer(part) for layer, part in zip(self, features.chunk(len(self)), strict=True)])


def _copies(module: nn.Module, number: int) -> list[nn.Module]:
    """Return a module and copies with their own initial weights."""
    copies = [copy.deepcopy(module) for _ in range(number - 1)]
    for each in (part for whole in copies for part in whole.modules()):
        if hasattr(each, 'reset_parameters'):
            each.reset_parameters()
    return [module, *copies]


def _last_like(stage: str, backbone: nn.Module) -> str:
    """Return the last of the modules that are called like a stage, but for their numbers: ``'layer4'``."""
    kind = stage.rstrip('0123456789')
    return [name for name, _ in backbone.named_children() if name.rstrip('0123456789') == kind][-1]
