"""The student of a run as the config of a plain classifier."""

import copy

from mmengine.config import Config, ConfigDict

from icd_mmrazor.configuration.type_names import by_names, type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.changed_student import changed_config
from icd_mmrazor.models.networks.pruned import is_pruned, unpruned
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.models.networks.untrained import drop_pretrained

SCOPE = 'mmpretrain'


def student_of(cfg: Config) -> ConfigDict:
    """Return the config of a distillation's student, or of the model itself if it is not a distillation.

    For a ``LinearProbe`` whose config has the network that it reads, it is that network with the new head.

    Args:
        cfg: The config of a run.

    Returns:
        The config of a plain classifier, as the distiller changes it (``SimKDDistiller``), with its
        ``data_preprocessor`` and the scope that it is built in (mmrazor's for a pruned network), without pretrained
        weights, since they come from a checkpoint, and without augmentations of whole batches, such as Mixup, since
        they are of the training.
    """
    if not isinstance(cfg.get('model'), dict):
        raise SettingError(
            f'config {cfg.filename or "(stored)"} has no model=dict(...); it has {", ".join(cfg) or "nothing"}. '
            'Give the config of a training.'
        )
    cfg = by_names(cfg)
    student = cfg.model if is_pruned(cfg.model) else cfg.model.get('architecture', cfg.model)
    student = changed_config(cfg.model) or network_config(copy.deepcopy(student), 'model.architecture')
    if type_name(student.type) == 'LinearProbe' and isinstance(student.get('student'), dict):
        student = _classifier_of_probe(student)
    student.setdefault('_scope_', cfg.model.get('_scope_') or cfg.get('default_scope') or SCOPE)
    # mmengine hands the config's to the algorithm, and mmrazor gives the algorithm's to the student
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if preprocessor:
        unpruned(student).data_preprocessor = copy.deepcopy(preprocessor)
    drop_pretrained(student)
    _drop_augmentations(unpruned(student))
    return student


def _classifier_of_probe(probe: ConfigDict) -> ConfigDict:
    """Return what a ``LinearProbe`` is once it is trained: a student with a new head."""
    student = network_config(probe.student, 'model.student')
    student.head = dict(type='LinearClsHead', num_classes=probe.num_classes, in_channels=student.head.in_channels)
    return student


def _drop_augmentations(network: dict) -> None:
    """Drop augmentations of whole batches, and the labels in the form that they need."""
    preprocessor = network.get('data_preprocessor')
    for name in ('batch_augments', 'to_onehot'):
        if isinstance(preprocessor, dict):
            preprocessor.pop(name, None)
    if isinstance(network.get('train_cfg'), dict):
        network['train_cfg'].pop('augments', None)
