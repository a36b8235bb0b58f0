"""The bytes of a row in which the outputs of a teacher for one image are stored."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icd_mmrazor.models.teacher_cache.store_folder import padded

DTYPES = ('float32', 'bfloat16', 'float16')
# fields of logits of which only the largest are stored
VALUES, CLASSES, REST = 'logits.values', 'logits.classes', 'logits.rest'


@dataclass(frozen=True)
class Field:
    """A tensor in a row: its shape, without the batch, and the name of its type."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


class RowLayout:
    """How outputs become rows of bytes, and rows outputs.

    Args:
        outputs: The shape, without the batch, and the type of each output that is stored.
        classes: The number of classes whose logits are stored: the largest, with the sum of the others'
            probabilities, which are taken as equal. None: all of them.

    Attributes:
        fields (dict[str, Field]): What a row holds, in its order.
        row_bytes (int): Size of a row.
    """

    def __init__(self, outputs: Mapping[str, Field], classes: int | None = None) -> None:
        self.outputs, self.classes = dict(outputs), classes
        logits = self.outputs.get('logits')
        self._cut = classes is not None and logits is not None and classes < logits.shape[-1]
        self.fields = {name: field for name, field in self.outputs.items() if name != 'logits' or not self._cut}
        if self._cut:
            self.fields[VALUES] = Field((classes,), logits.dtype)
            self.fields[CLASSES] = Field((classes,), 'int32')
            self.fields[REST] = Field((1,), 'float32')
        self.row_bytes = sum(padded(field.bytes) for field in self.fields.values())

    @classmethod
    def of(cls, outputs: Mapping[str, Tensor], dtype: str | None = None, classes: int | None = None) -> 'RowLayout':
        """Return the layout for outputs, ``B x ...`` each, in their own types or in another."""
        fields = {
            name: Field(tuple(output.shape[1:]), dtype or str(output.dtype).removeprefix('torch.'))
            for name, output in outputs.items()
        }
        return cls(fields, classes)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> 'RowLayout':
        """Return the layout that :attr:`facts` describe."""
        fields = {name: Field(tuple(shape), dtype) for name, (shape, dtype) in facts['fields'].items()}
        return cls(fields, facts['top_k'])

    @property
    def facts(self) -> dict[str, Any]:
        """The layout as JSON."""
        return {'fields': {name: [list(f.shape), f.dtype] for name, f in self.outputs.items()}, 'top_k': self.classes}

    def pack(self, outputs: Mapping[str, Tensor]) -> np.ndarray:
        """Return the rows, ``B x row_bytes``, of outputs, ``B x ...`` each."""
        tensors = dict(outputs)
        if self._cut:
            logits = tensors.pop('logits').float()
            values, chosen = logits.topk(self.classes)
            others = logits.scatter(1, chosen, -torch.inf)
            tensors |= {VALUES: values, CLASSES: chosen, REST: others.logsumexp(1, keepdim=True)}
        number = len(next(iter(tensors.values())))
        rows = np.zeros((number, self.row_bytes), np.uint8)
        for name, part in self._slices():
            tensor = tensors[name].to('cpu', getattr(torch, self.fields[name].dtype)).contiguous()
            rows[:, part] = tensor.reshape(number, -1).view(torch.uint8).numpy()
        return rows

    def read(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Return the fields, ``B x ...`` each, of rows, ``B x row_bytes``."""
        tensors = {}
        for name, part in self._slices():
            field = self.fields[name]
            values = torch.from_numpy(np.ascontiguousarray(rows[:, part])).view(getattr(torch, field.dtype))
            tensors[name] = values.view(len(rows), *field.shape)
        return tensors

    def unpack(self, rows: np.ndarray, device: torch.device | str = 'cpu') -> dict[str, Tensor]:
        """Return the outputs, ``B x ...`` each, of rows, ``B x row_bytes``, on a device."""
        tensors = self.read(rows)
        if torch.device(device).type == 'cuda':  # a copy from pinned memory does not wait for the GPU
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        if self._cut:
            values, chosen, rest = (tensors.pop(name) for name in (VALUES, CLASSES, REST))
            classes = self.outputs['logits'].shape[-1]
            each = rest - math.log(classes - self.classes)
            logits = each.expand(-1, classes).contiguous()
            tensors['logits'] = logits.scatter(1, chosen.long(), values.float())
        return tensors

    def _slices(self) -> list[tuple[str, slice]]:
        start, slices = 0, []
        for name, field in self.fields.items():
            slices.append((name, slice(start, start + field.bytes)))
            start += padded(field.bytes)
        return slices
