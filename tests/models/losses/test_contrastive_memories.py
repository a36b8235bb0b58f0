"""The other memories of CRD and RRD in their authors' code of 2025: golden numbers over steps, slow rewrites."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DATA
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses import ContrastiveRepresentationLoss, RRDLoss
from icd_mmrazor.models.losses.base import MemoryLoss
from icd_mmrazor.models.losses.crd_queue_loss import CRDQueueLoss
from icd_mmrazor.models.losses.rrd_memory_loss import RRDMemoryLoss

CASES = ('default', 'small')
EMBEDDINGS = [f'embed_{role}.{name}' for role in ('s', 't') for name in ('weight', 'bias')]
LABELS = torch.arange(30) % 5


def golden(case: str) -> dict[str, Tensor]:
    arrays = np.load(DATA / 'contrastive_memories.npz')
    return {name.removeprefix(f'{case}/'): torch.from_numpy(arrays[name]) for name in arrays.files if case in name}


def samples(index: Tensor | list[int]) -> list[DataSample]:
    return [DataSample(metainfo={'sample_idx': int(i)}) for i in index]


def settings_of(numbers: dict[str, Tensor], method: str, *names: str) -> dict[str, float]:
    return {name: numbers[f'{method}/setting/{name}'].item() for name in names}


def steps(numbers: dict[str, Tensor], method: str, loss: nn.Module) -> Iterator[tuple[str, float]]:
    """Take the steps of a case with a loss, and compare each with the numbers of its authors' code."""
    number = 0
    while f'step{number}/student' in numbers:
        step = f'step{number}'
        leaves = {name: numbers[name].clone().requires_grad_() for name in EMBEDDINGS}
        leaves['student'] = numbers[f'{step}/student'].clone().requires_grad_()
        s = F.linear(leaves['student'], leaves['embed_s.weight'], leaves['embed_s.bias'])
        t = F.linear(numbers[f'{step}/teacher'], leaves['embed_t.weight'], leaves['embed_t.bias'])
        indices = numbers[f'{step}/index'], numbers[f'{step}/contrast_index']
        assert torch.equal(indices[0], indices[1][:, 0])
        with_indices = isinstance(loss, ContrastiveRepresentationLoss)
        value = loss(s, t, samples(indices[0]), indices[1][:, 1:]) if with_indices else loss(s, t)
        value.backward()
        expected = f'{method}/{step}'
        assert value.item() == pytest.approx(numbers[f'{expected}/loss'].item(), rel=1e-9)
        gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        assert {f'{expected}/grad/{name}' for name in gradients} == {n for n in numbers if f'{expected}/grad/' in n}
        for name, gradient in gradients.items():
            want = numbers[f'{expected}/grad/{name}']
            torch.testing.assert_close(gradient, want, rtol=1e-9, atol=1e-12, msg=f'{step} {name}')
        yield f'{expected}/buffer_after', value.item()
        number += 1
    assert number >= 3


@pytest.mark.parametrize('case', CASES)
def test_golden_numbers_of_crd_with_a_queue(case: str) -> None:
    numbers = golden(case)
    size, width = numbers['queue'].shape
    loss = CRDQueueLoss(size, embed_dims=width, **settings_of(numbers, 'crd_fifo', 'temperature')).double()
    loss.memory.copy_(numbers['queue'])
    seen = 0
    for after, value in steps(numbers, 'crd_fifo', loss):
        torch.testing.assert_close(loss.memory, numbers[f'{after}/queue'], rtol=1e-9, atol=1e-12)
        assert loss.oldest.item() == numbers[f'{after}/queue_ptr'].item()
        # the positive is also a negative
        assert value > math.log(2)
        seen += len(numbers['step0/student'])
    assert seen > size


MEMORIES = dict(crd_momentum=ContrastiveRepresentationLoss, rrd_momentum=RRDMemoryLoss)


@pytest.mark.parametrize('method', MEMORIES)
@pytest.mark.parametrize('case', CASES)
def test_golden_numbers_of_memories_of_all_images(case: str, method: str) -> None:
    """CRD itself is the authors' CRD_MomentumMemory_Loss."""
    numbers = golden(case)
    samples_, width = numbers['memory_v1'].shape
    temperatures = ('student_temperature', 'teacher_temperature') if method == 'rrd_momentum' else ()
    given = settings_of(numbers, method, 'temperature', 'momentum', *temperatures)
    assert numbers[f'{method}/setting/n_data'].item() == samples_
    loss = MEMORIES[method](embed_dims=width, num_samples=samples_, **given).double()
    loss.student_memory.copy_(numbers['memory_v1'])
    loss.teacher_memory.copy_(numbers['memory_v2'])
    for after, _ in steps(numbers, method, loss):
        for ours, theirs in (('student_memory', 'memory_v1'), ('teacher_memory', 'memory_v2')):
            want = numbers[f'{after}/contrast.{theirs}']
            torch.testing.assert_close(getattr(loss, ours), want, rtol=1e-9, atol=1e-12)
        normalisers = numbers[f'{after}/contrast.params'][2:4]
        torch.testing.assert_close(loss.normalisers, normalisers, rtol=1e-9, atol=1e-12)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def units(rows: list[list[float]]) -> list[list[float]]:
    return [[x / math.hypot(*row) for x in row] for row in rows]


@pytest.mark.parametrize('sizes', [(4, 4, 4), (3, 5, 1, 2, 4), (9, 17, 2)], ids=str)
def test_crd_with_a_queue_equals_a_slow_rewrite(sizes: tuple[int, ...]) -> None:
    loss = CRDQueueLoss(memory_size=7, temperature=0.2, embed_dims=5, loss_weight=0.5).double()
    memory, oldest = loss.memory.tolist(), 0
    for size in sizes:
        s, t = torch.randn(2, size, 5).double()
        students, teachers = units(s.tolist()), units(t.tolist())
        for row in teachers:
            memory[oldest] = row
            oldest = (oldest + 1) % 7
        total = 0.0
        for u, v in zip(students, teachers, strict=True):
            logits = [dot(u, row) / 0.2 for row in [v, *memory]]
            total -= logits[0] - math.log(sum(map(math.exp, logits)))
        assert loss(s, t).item() == pytest.approx(0.5 * total / size, rel=1e-10)
        assert torch.allclose(loss.memory, torch.tensor(memory).double(), atol=1e-6)


def test_rrd_with_memories_equals_a_slow_rewrite() -> None:
    loss = RRDMemoryLoss(
        num_negatives=6,
        temperature=0.5,
        embed_dims=8,
        loss_weight=0.8,
        student_temperature=0.3,
        teacher_temperature=0.2,
    ).double()
    loss.set_dataset(LABELS)
    z: list[float] = []
    for index in ([3, 0, 14], [0, 5, 7], [9, 3]):
        s, t = torch.randn(2, len(index), 8).double()
        negatives = loss.draw_negatives(torch.tensor(index))
        memories = loss.teacher_memory.tolist(), loss.student_memory.tolist()
        columns = [[own, *others] for own, others in zip(index, negatives.tolist(), strict=True)]
        exponentials = [
            [
                [math.exp(dot(u, memory[j]) / 0.5) for j in row]
                for u, row in zip(units(view.tolist()), columns, strict=True)
            ]
            for view, memory in zip((s, t), memories, strict=True)
        ]
        z = z or [30 * sum(map(sum, each)) / (len(index) * 7) for each in exponentials]
        total = 0.0
        for of_student, of_teacher in zip(*exponentials, strict=True):
            logits = [x / z[0] / 0.3 for x in of_student]
            targets = [math.exp(x / z[1] / 0.2) for x in of_teacher]
            log_sum = math.log(sum(map(math.exp, logits)))
            total -= sum(q / sum(targets) * (x - log_sum) for q, x in zip(targets, logits, strict=True))
        assert loss(s, t, samples(index), negatives).item() == pytest.approx(0.8 * total / len(index), rel=1e-10)


def test_gradients_flow_where_the_release_has_them() -> None:
    s, t = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    queue, memories = CRDQueueLoss(memory_size=8, embed_dims=8), RRDMemoryLoss(embed_dims=8, num_samples=30)
    queue(s, t).backward()
    assert s.grad.abs().sum() > 0
    # of the positives alone: towards the student, whatever is in the memory
    assert t.grad.abs().sum() > 0
    s.grad = t.grad = None
    memories(s, t, samples(range(4)), torch.randint(10, 30, (4, 5))).backward()
    assert s.grad.abs().sum() > 0
    assert t.grad is None


def test_two_batches_before_one_backward_pass() -> None:
    """As with accumulated gradients."""
    loss = CRDQueueLoss(memory_size=8, embed_dims=8)
    s, t = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 4, 8)
    (loss(s[0], t[0]) + loss(s[1], t[1])).backward()
    assert torch.isfinite(s.grad).all()


def test_names_in_checkpoints() -> None:
    """Those of RRD and CRD in version 0.1, for all."""
    queues = [RRDLoss(4, embed_dims=3), CRDQueueLoss(4, embed_dims=3)]
    memories = [cls(embed_dims=3, num_samples=5) for cls in MEMORIES.values()]
    assert [{*loss.state_dict()} for loss in queues] == 2 * [{'memory', 'oldest'}]
    assert [{*loss.state_dict()} for loss in memories] == 2 * [{'student_memory', 'teacher_memory', 'normalisers'}]


@pytest.mark.parametrize('name', ['CRDQueueLoss', 'RRDMemoryLoss'])
def test_a_resumed_loss_continues(name: str, tmp_path: Path) -> None:
    size = dict(memory_size=7) if name == 'CRDQueueLoss' else dict(num_samples=30)

    def value_of(loss: MemoryLoss, batch: Tensor) -> float:
        return loss(*batch, *([samples([1, 2, 3]), negatives] if name == 'RRDMemoryLoss' else [])).item()

    loss, resumed = (MODELS.build(dict(_scope_='mmrazor', type=name, embed_dims=8, **size)) for _ in range(2))
    batches, negatives = torch.randn(3, 2, 3, 8), torch.randint(10, 30, (3, 5))
    for batch in batches[:2]:
        value_of(loss, batch)
    torch.save(loss.state_dict(), tmp_path / 'loss.pth')
    load_state_dict(resumed, torch.load(tmp_path / 'loss.pth', weights_only=True), strict=True)
    assert value_of(resumed, batches[2]) == value_of(loss, batches[2])


@pytest.mark.parametrize(
    ('method', 'kind', 'needs'),
    [('crd', 'CRDQueueLoss', False), ('rrd', 'RRDMemoryLoss', True)],
)
def test_settings_of_a_preset_make_the_other_memory(method: str, kind: str, needs: bool) -> None:
    """As their pages show; what the whole run needs follows."""
    cfg = recipes.compose('res20_res8_digits', [method])
    entry = f'model.distiller.losses.{method}.loss'
    cfg.merge_from_dict({f'{entry}._delete_': True, f'{entry}.type': kind})
    loss = MODELS.build(dict(cfg.model, teacher_ckpt=None, random_teacher=True)).distiller.distill_losses[
        f'loss_{method}'
    ]
    assert type(loss).__name__ == kind
    assert (loss.reads_labels, hasattr(loss, 'set_dataset')) == (needs, needs)


@pytest.mark.parametrize(
    ('kind', 'setting'),
    [
        ('CRDQueueLoss', dict(memory_size=0)),
        ('CRDQueueLoss', dict(temperature=0)),
        ('CRDQueueLoss', dict(embed_dims=1.5)),
        ('CRDQueueLoss', dict(loss_weight='a')),
        ('RRDMemoryLoss', dict(student_temperature=0)),
        ('RRDMemoryLoss', dict(teacher_temperature=-0.1)),
        ('RRDMemoryLoss', dict(temperature=0.01)),
        ('RRDMemoryLoss', dict(momentum=1.0)),
    ],
    ids=str,
)
def test_bad_settings_are_refused(kind: str, setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'{kind}: {name}={value!r}'):
        MODELS.build(dict(_scope_='mmrazor', type=kind, **setting))


def test_errors_name_the_loss_that_is_used() -> None:
    with pytest.raises(SettingError, match='RRDMemoryLoss does not know the training set'):
        RRDMemoryLoss(embed_dims=8)(*torch.randn(2, 1, 8), samples([0]))
    with pytest.raises(SettingError, match=r'CRDQueueLoss: embed_dims=8.*out_features=8'):
        CRDQueueLoss(4, embed_dims=8)(torch.randn(2, 7), torch.randn(2, 7))
