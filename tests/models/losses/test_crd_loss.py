"""CRD against golden numbers of the published implementation over two steps, a slow rewrite, and properties."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.models import LinearProjection
from icd_mmrazor.models.losses import ContrastiveRepresentationLoss

LABELS = torch.arange(40) % 5


def samples(*indices: int) -> list[DataSample]:
    return [DataSample(metainfo={'sample_idx': int(index)}) for index in indices]


def prepared(labels: Tensor = LABELS, **settings: object) -> ContrastiveRepresentationLoss:
    loss = ContrastiveRepresentationLoss(**{'num_negatives': 12, 'embed_dims': 8, **settings}).double()
    loss.set_dataset(labels)
    return loss


def near(got: Tensor, want: np.ndarray, bar: float = 1e-8) -> bool:
    return np.abs(got.detach().numpy() - want).max() <= bar * np.abs(want).max()


def test_golden_numbers() -> None:
    golden = {name: torch.from_numpy(array) for name, array in np.load(DATA / 'crd_loss_vectors.npz').items()}
    projections = {}
    for name, width in (('s', 16), ('t', 32)):
        projections[name] = LinearProjection(width, 8).double()
        weights = {key: golden[f'init/embed_{name}.linear.{key}'] for key in ('weight', 'bias')}
        projections[name].linear.load_state_dict(weights)
    loss = prepared(
        num_negatives=int(golden['nce_k']), temperature=float(golden['nce_t']), momentum=float(golden['nce_m'])
    )
    loss.student_memory.copy_(golden['init/contrast.memory_v1'])
    loss.teacher_memory.copy_(golden['init/contrast.memory_v2'])
    for step in ('step0', 'step1'):
        g = {key.partition('/')[2]: value for key, value in golden.items() if key.startswith(step)}
        student = g['student'].requires_grad_()
        assert torch.equal(g['contrast_index'][:, 0], g['index'])
        embeddings = projections['s'](student), projections['t'](g['teacher'])
        value = loss(*embeddings, samples(*g['index']), g['contrast_index'][:, 1:])
        value.backward()
        assert value.item() == pytest.approx(g['loss'].item(), rel=1e-8)
        assert near(student.grad, g['grad_student'].numpy())
        assert near(loss.student_memory, g['memory_v1'].numpy())
        assert near(loss.teacher_memory, g['memory_v2'].numpy())
        assert near(loss.normalisers, g['params'][2:4].numpy())


def slow_crd(views: list[list], memories: list[list], index: list[int], negatives: list, z: list) -> float:
    """Return the loss at temperature 0.07, number by number; fill ``z`` where it is empty."""
    k, n, eps = len(negatives[0]), len(memories[0]), 1e-7
    unit = [[[x / math.hypot(*row) for x in row] for row in view] for view in views]
    total = 0.0
    for view, memory in ((0, 1), (1, 0)):
        exponentials = [
            [math.exp(sum(a * b for a, b in zip(unit[view][i], memories[memory][j], strict=True)) / 0.07) for j in row]
            for i, row in enumerate([own, *others] for own, others in zip(index, negatives, strict=True))
        ]
        if len(z) == view:
            z.append(n * sum(map(sum, exponentials)) / (len(index) * (k + 1)))
        for row in exponentials:
            p = [x / z[view] for x in row]
            total -= math.log(p[0] / (p[0] + k / n + eps))
            total -= sum(math.log(k / n / (x + k / n + eps)) for x in p[1:])
    for memory, view in zip(memories, unit, strict=True):
        for i, j in enumerate(index):
            moved = [0.5 * a + 0.5 * b for a, b in zip(memory[j], view[i], strict=True)]
            memory[j] = [x / math.hypot(*moved) for x in moved]
    return total / len(index)


def test_equals_a_slow_rewrite_over_steps() -> None:
    loss = prepared(LABELS[:15], num_negatives=6, loss_weight=0.8)
    memories, z = [loss.student_memory.tolist(), loss.teacher_memory.tolist()], []
    for index in ([3, 0, 14], [0, 5, 7], [9, 3]):
        views = torch.randn(2, len(index), 8).double()
        negatives = loss.draw_negatives(torch.tensor(index))
        want = slow_crd(views.tolist(), memories, index, negatives.tolist(), z)
        assert loss(*views, samples(*index), negatives).item() == pytest.approx(0.8 * want, rel=1e-10)
        assert near(loss.student_memory, np.array(memories[0]), 1e-12)
        assert near(loss.teacher_memory, np.array(memories[1]), 1e-12)
        assert near(loss.normalisers, np.array(z), 1e-12)


def test_memories_start_within_the_published_range() -> None:
    loss = prepared(torch.arange(4000) % 2, embed_dims=12)
    for memory in (loss.student_memory, loss.teacher_memory):
        assert 0.499 < memory.abs().max() <= 0.5
        assert memory.mean().abs() < 0.01
    assert not torch.equal(loss.student_memory, loss.teacher_memory)


def test_last_of_two_views_of_an_image_is_remembered() -> None:
    twice, once = prepared(), prepared()
    once.load_state_dict(twice.state_dict())
    s, t = torch.randn(2, 3, 8).double()
    twice(s, t, samples(4, 9, 4))
    once(s[1:], t[1:], samples(9, 4))
    assert torch.equal(twice.student_memory, once.student_memory)
    assert torch.equal(twice.teacher_memory, once.teacher_memory)


def test_two_batches_before_one_backward_pass() -> None:
    """As with accumulated gradients."""
    loss, s, t = prepared(), torch.randn(2, 4, 8).double().requires_grad_(), torch.randn(2, 4, 8).double()
    (loss(s[0], t[0], samples(0, 1, 2, 3)) + loss(s[1], t[1], samples(2, 3, 4, 5))).backward()
    assert torch.isfinite(s.grad).all()
    assert s.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'labels', [torch.arange(60) % 6, torch.tensor([0] * 30 + [1] * 5 + [7] * 25)], ids=['', 'rare']
)
def test_negatives_are_others_and_do_not_repeat(labels: Tensor) -> None:
    loss = prepared(labels, num_negatives=30)
    index = torch.arange(60)
    drawn = loss.draw_negatives(index)
    assert drawn.shape == (60, 30)
    assert (labels[drawn] != labels[index, None]).all()
    assert all(len(set(row)) == 30 for row in drawn.tolist())


def test_negatives_are_uniform_and_independent() -> None:
    loss = prepared(torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), num_negatives=2)
    draws = 20000
    drawn = loss.draw_negatives(torch.zeros(draws, dtype=torch.int64)).sort(dim=1).values
    pairs = list(itertools.combinations(range(3, 8), 2))
    counts = [(drawn == torch.tensor(pair)).all(dim=1).sum().item() for pair in pairs]
    assert sum(counts) == draws
    deviation = math.sqrt(draws * 0.1 * 0.9)
    assert max(abs(count - 0.1 * draws) for count in counts) < 5 * deviation
    # one image's negatives say nothing of the next one's
    same = (drawn[::2] == drawn[1::2]).all(dim=1).double().mean()
    assert abs(same - 0.1) < 5 * math.sqrt(0.1 * 0.9 / (draws / 2))


@pytest.mark.parametrize(('count', 'repeats'), [(4, {0}), (7, {0, 1})])
def test_negatives_repeat_only_if_there_are_too_few(count: int, repeats: set[int]) -> None:
    labels = torch.tensor([0] * 6 + [1] * 2)
    loss = prepared(labels, num_negatives=count)
    drawn = loss.draw_negatives(torch.arange(8))
    assert drawn.shape == (8, count)
    assert (labels[drawn] != labels[:, None]).all()
    for label, row in zip(labels.tolist(), drawn.tolist(), strict=True):
        assert (len(set(row)) < count) == (label in repeats)
    # all that there are take part
    many = loss.draw_negatives(torch.zeros(200, dtype=torch.int64))
    assert set(many.flatten().tolist()) == {6, 7}


def test_negatives_follow_the_seed() -> None:
    loss, index = prepared(), torch.arange(4)
    torch.manual_seed(3)
    first, second = loss.draw_negatives(index), loss.draw_negatives(index)
    torch.manual_seed(3)
    assert torch.equal(loss.draw_negatives(index), first)
    assert not torch.equal(first, second)


def saved(loss: torch.nn.Module, folder: Path) -> dict[str, Tensor]:
    torch.save(loss.state_dict(), folder / 'loss.pth')
    return torch.load(folder / 'loss.pth', weights_only=True)


@pytest.mark.parametrize('sized', [True, False], ids=['dataset known', 'not yet'])
def test_a_resumed_loss_continues(sized: bool, tmp_path: Path) -> None:
    loss = prepared()
    batches = torch.randn(3, 2, 4, 8).double()
    for batch in batches[:2]:
        loss(*batch, samples(1, 2, 3, 4))
    state = saved(loss, tmp_path)
    assert set(state) == {'student_memory', 'teacher_memory', 'normalisers'}

    resumed = prepared() if sized else ContrastiveRepresentationLoss(num_negatives=12, embed_dims=8).double()
    load_state_dict(resumed, state, strict=True)
    resumed.set_dataset(LABELS)
    negatives = loss.draw_negatives(torch.tensor([3, 5, 7, 9]))
    values = [each(*batches[2], samples(3, 5, 7, 9), negatives).item() for each in (loss, resumed)]
    assert values[0] == values[1]
    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_refuses_the_memories_of_another_training_set(tmp_path: Path) -> None:
    state = saved(prepared(), tmp_path)
    other = prepared(LABELS[:30])
    with pytest.raises(CheckpointError, match=r'memory of 40 images.*30'):
        load_state_dict(other, state)
    with pytest.raises(SettingError, match=r'num_samples=40.*30'):
        prepared(LABELS[:30], num_samples=40)


def test_float32_is_exact_where_the_probabilities_are_small() -> None:
    """The published size: every term is a logarithm of nearly 1."""
    loss = prepared(torch.arange(20000) % 100, num_negatives=16384)
    single = ContrastiveRepresentationLoss(num_negatives=16384, embed_dims=8, num_samples=20000)
    single.load_state_dict(loss.state_dict())
    s, t = torch.randn(2, 2, 8)
    negatives = loss.draw_negatives(torch.tensor([0, 1]))
    got = single(s, t, samples(0, 1), negatives).item()
    assert got == pytest.approx(loss(s.double(), t.double(), samples(0, 1), negatives).item(), rel=1e-5)


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    cpu, gpu = prepared(), prepared().cuda()
    gpu.load_state_dict(cpu.state_dict())
    assert (gpu.labels[gpu.draw_negatives(torch.arange(40).cuda())] != gpu.labels[:, None]).all()
    gradients = {}
    for device, loss in (('cpu', cpu), ('cuda', gpu)):
        torch.manual_seed(1)
        s, t = (torch.randn(4, 8).double().to(device).requires_grad_() for _ in range(2))
        negatives = torch.arange(12).expand(4, 12).to(device)
        loss(s, t, samples(13, 14, 15, 13), negatives).backward()
        gradients[device] = s.grad.cpu()
    assert near(gradients['cuda'], gradients['cpu'].numpy(), 1e-12)
    assert near(gpu.student_memory.cpu(), cpu.student_memory.numpy(), 1e-12)
    assert near(gpu.normalisers.cpu(), cpu.normalisers.numpy(), 1e-12)


def test_compiled_once_for_all_batches() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    loss = prepared()
    compiled = torch.compile(loss, backend=backend, dynamic=False)
    counts = []
    for indices in ([0, 1, 2], [3, 4, 5], [7, 0, 8], [20, 30, 10]):
        embeddings = torch.randn(2, 3, 8, dtype=torch.float64)
        compiled(*embeddings, [DataSample(metainfo={'sample_idx': indices})])
        counts.append(len(graphs))
    # the second batch meets normalisers that are set
    assert 0 < counts[1] == counts[2] == counts[3]


@pytest.mark.parametrize(
    'setting',
    [
        {'num_negatives': 0},
        {'temperature': 0.0},
        {'temperature': math.nan},
        {'momentum': 1.0},
        {'momentum': -0.1},
        {'embed_dims': 1.5},
        {'num_samples': 0},
        {'loss_weight': 'a'},
    ],
)
def test_refuses_settings_out_of_range(setting: dict) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(SettingError, match=f'{name}={value!r}'):
        MODELS.build({'_scope_': 'mmrazor', 'type': 'ContrastiveRepresentationLoss', **setting})


def test_one_data_sample_may_stand_for_the_batch() -> None:
    features, negatives = torch.randn(2, 4, 8), torch.randint(40, (4, 6))
    losses = [prepared(), prepared()]
    losses[1].load_state_dict(losses[0].state_dict())
    (one,) = samples(0)
    one.set_metainfo({'sample_idx': [7, 3, 39, 0]})
    values = [
        loss(*features, data_samples, negatives)
        for loss, data_samples in zip(losses, (samples(7, 3, 39, 0), [one]), strict=True)
    ]
    assert torch.equal(*values)
    assert torch.equal(losses[0].student_memory, losses[1].student_memory)
    assert not torch.equal(losses[0].student_memory, prepared().student_memory)


@pytest.mark.parametrize(
    ('data_samples', 'message'),
    [
        ([DataSample() for _ in range(4)], 'sample_idx.*IndexedDataset'),
        (samples(0, 1, 2), 'data_samples .*data_idx=1'),
        (torch.zeros(4, 3), 'data_samples .*data_idx=1'),
        (samples(0, 1, 2, 40), 'sample_idx from 0 to 40.*40'),
        (samples(-1, 1, 2, 3), 'sample_idx from -1 to 3'),
    ],
    ids=['unmarked', 'fewer', 'images', 'too large', 'negative'],
)
def test_refuses_data_samples_that_do_not_fit(data_samples: object, message: str) -> None:
    loss = prepared()
    before = loss.student_memory.clone()
    with pytest.raises(SettingError, match=f'(?s){message}'):
        loss(torch.randn(4, 8), torch.randn(4, 8), data_samples)
    assert torch.equal(loss.student_memory, before)


@pytest.mark.parametrize('settings', [{}, {'num_samples': 40}], ids=str)
def test_refuses_to_run_unprepared(settings: dict) -> None:
    loss = ContrastiveRepresentationLoss(embed_dims=8, **settings)
    with pytest.raises(SettingError, match='SampleMemoryHook'):
        loss(*torch.randn(2, 1, 8), samples(0))


def test_given_negatives_need_no_labels() -> None:
    loss = ContrastiveRepresentationLoss(embed_dims=8, num_samples=40)
    assert torch.isfinite(loss(*torch.randn(2, 1, 8), samples(0), torch.tensor([[1, 2]])))


def test_refuses_a_training_set_of_one_class() -> None:
    with pytest.raises(DatasetError, match='one label'):
        prepared(torch.full((5,), 3))


@pytest.mark.parametrize(
    ('s_shape', 't_shape', 'message'),
    [
        ((4, 8), (5, 8), 'batch sizes'),
        ((4, 8), (4, 9), 'widths'),
        ((4, 9), (4, 9), 'embed_dims=8.*out_features=8'),
        ((4, 8, 2, 2), (4, 8, 2, 2), 'embed_dims=8'),
    ],
)
def test_refuses_features_that_do_not_match(s_shape: tuple, t_shape: tuple, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        prepared()(torch.randn(s_shape), torch.randn(t_shape), samples(0, 1, 2, 3))
