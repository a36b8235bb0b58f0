"""Export of a classifier's weights to safetensors."""

import json

import torch

from icd_mmrazor.errors import UserError
from icd_mmrazor.export.content import Content
from icd_mmrazor.export.trained import TrainedStudent


def as_safetensors(student: TrainedStudent) -> Content:
    """Export the weights of a student to safetensors, under the names of the network, and read them back.

    The metadata holds :meth:`TrainedStudent.about`, each value as JSON, and ``config``, the text of ``student.py``.
    The weights of a ``TimmClassifier`` have timm's names.

    Raises:
        UserError: What is read back differs.
    """
    from safetensors.torch import load, save

    # safetensors refuses tensors that share memory
    weights = {name: tensor.clone() for name, tensor in student.checkpoint['state_dict'].items()}
    metadata = {name: json.dumps(value) for name, value in student.about().items()}
    # 'format' is read by transformers
    data = save(weights, {'format': 'pt', **metadata, 'config': student.cfg.pretty_text})
    found = load(data)
    if found.keys() != weights.keys() or any(not torch.equal(found[name], weights[name]) for name in weights):
        raise UserError('--to safetensors: the weights differ when they are read back, so no file was written.')
    return Content(data, f'{len(weights)} tensors')
