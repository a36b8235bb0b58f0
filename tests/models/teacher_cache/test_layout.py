"""The bytes of a row."""

import numpy as np
import pytest
import torch

from icd_mmrazor.models.teacher_cache.layout import RowLayout


def outputs(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        'pooled': torch.randn(5, 7, generator=generator).to(dtype),
        'logits': 4 * torch.randn(5, 10, generator=generator).to(dtype),
    }


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_packed_is_unpacked_bit_for_bit(dtype):
    original = outputs(dtype)
    layout = RowLayout.of(original)
    rows = layout.pack(original)
    assert rows.shape == (5, layout.row_bytes)
    assert rows.dtype == np.uint8
    found = layout.unpack(rows)
    assert found.keys() == original.keys()
    for name, output in found.items():
        assert output.dtype == dtype
        assert torch.equal(output, original[name])


def test_another_type_is_the_rounding_of_torch():
    layout = RowLayout.of(outputs(), 'bfloat16')
    found = layout.unpack(layout.pack(outputs()))
    assert torch.equal(found['logits'], outputs()['logits'].bfloat16())
    # 7 and 10 numbers of 2 bytes, each rounded up to 8 bytes
    assert layout.row_bytes == 16 + 24


def test_of_the_largest_logits_the_probabilities_stay():
    original = outputs()
    layout = RowLayout.of(original, classes=4)
    found = layout.unpack(layout.pack(original))['logits'].softmax(1)
    exact = original['logits'].softmax(1)
    for row, true in zip(found, exact, strict=True):
        kept = true.topk(4).indices
        rest = [i for i in range(10) if i not in kept]
        torch.testing.assert_close(row[kept], true[kept])
        # what remains is shared alike
        torch.testing.assert_close(row[rest], (true[rest].sum() / 6).expand(6))


def test_as_many_as_there_are_is_all():
    original = outputs()
    layout = RowLayout.of(original, classes=10)
    assert torch.equal(layout.unpack(layout.pack(original))['logits'], original['logits'])


def test_facts_describe_a_layout():
    layout = RowLayout.of(outputs(), 'float16', 3)
    again = RowLayout.from_facts(layout.facts)
    assert (again.fields, again.row_bytes, again.facts) == (layout.fields, layout.row_bytes, layout.facts)
