"""ViTKD against golden numbers of the published code, a slow rewrite, and on transformers."""

import itertools
import re

import numpy as np
import pytest
import torch
from helpers import DATA
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.vitkd_loss import ViTKDLoss, hidden_tokens

# the authors' names of parameters and ours
RENAMED = ((r'^align2\.', 'linears.'), (r'^align\.', 'linears.2.'))


def ours(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def laid_out(tokens: Tensor) -> Tensor:
    """Return tokens, ``B x N x D``, as maps of a square."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.mT.reshape(len(tokens), -1, side, side)


def maps_of(golden: dict[str, Tensor], network: str) -> list[Tensor]:
    low, high = golden[f'{network}_low'], golden[f'{network}_high']
    return [*(laid_out(each) for each in low.unbind(1)), laid_out(high)]


@pytest.mark.parametrize('case', ['default', 'same_width'])
def test_golden_numbers(case: str) -> None:
    arrays = np.load(DATA / 'vitkd.npz')
    g = {name.removeprefix(f'{case}/'): torch.from_numpy(arrays[name]) for name in arrays.files if case in name}
    g |= {name.removeprefix('vitkd/'): value for name, value in g.items()}
    leaves = {name: g[name].requires_grad_() for name in ('student_low', 'student_high')}
    students, teachers = maps_of(g, 'student'), maps_of(g, 'teacher')
    shapes = [[m.shape[1:] for m in maps] for maps in (students, teachers)]
    alpha, beta, hidden = (g[f'setting/{name}'].item() for name in ('alpha', 'beta', 'lam'))
    loss = ViTKDLoss(*shapes, alpha, beta, hidden).double()
    published = {name.removeprefix('param/'): value for name, value in g.items() if name.startswith('param/')}
    loss.load_state_dict({ours(name): value.squeeze() for name, value in published.items()})
    value = loss(students, teachers, g['noise'])
    value.backward()
    parameters = dict(loss.named_parameters())
    generation = ViTKDLoss(*shapes, 0.0, beta, hidden).double()
    generation.load_state_dict(loss.state_dict())
    generated = generation(students, teachers, g['noise'])
    got = {
        'loss': value,
        'part/generation': generated,
        'part/mimicking': value - generated,
        'part/mask': hidden_tokens(g['noise'], hidden).double(),
        'part/ids_restore': g['noise'].argsort(dim=1).argsort(dim=1),
        **{f'grad/{name}': leaf.grad for name, leaf in leaves.items()},
        **{f'grad/{name}': parameters[ours(name)].grad.view_as(each) for name, each in published.items()},
    }
    assert {*got} == {name for name in g if name.startswith(('loss', 'part/', 'grad/'))}
    for name, value in got.items():
        torch.testing.assert_close(
            value.detach(), g[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f'{name}: {text}'
        )


def slow_vitkd(loss: ViTKDLoss, students: list[Tensor], teachers: list[Tensor], noise: Tensor) -> float:
    """Return the loss at its default weights, token by token."""
    mimicking = generation = 0.0
    *low, high = [
        torch.stack(
            [torch.stack([linear(m[:, :, i, j]) for j in range(m.shape[3])], -1) for i in range(m.shape[2])], -2
        )
        for linear, m in zip(loss.linears, students, strict=True)
    ]
    for s, t in zip(low, teachers, strict=False):
        mimicking += sum((x - y) ** 2 for x, y in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True))
    height, width = high.shape[2:]
    for image in range(len(high)):
        order = sorted(range(height * width), key=lambda token: noise[image, token].item())
        hidden = {divmod(token, width) for token in order[int(len(order) * (1 - loss.hidden)) :]}
        shown = high[image].clone()
        for i, j in hidden:
            shown[:, i, j] = loss.mask_token
        for convolution in (loss.generation[0], loss.generation[2]):
            padded = torch.nn.functional.pad(shown, (1, 1, 1, 1))
            out = torch.zeros(len(convolution.bias), height, width, dtype=high.dtype)
            for i, j in itertools.product(range(height), range(width)):
                window = padded[:, i : i + 3, j : j + 3]
                out[:, i, j] = (convolution.weight * window).sum((1, 2, 3)) + convolution.bias
            shown = out.relu() if convolution is loss.generation[0] else out
        for i, j in hidden:
            generation += (shown[:, i, j] - teachers[-1][image, :, i, j]).square().sum().item()
    return (loss.alpha * mimicking + loss.beta / loss.hidden * generation) / len(high)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ('widths', 'size', 'features', 'hidden'),
    [((3, 4), (4, 4), 3, 0.5), ((2, 2), (2, 3), 2, 0.3), ((3, 2), (3, 1), 4, 1.0)],
)
@torch.no_grad()
def test_equals_a_slow_rewrite(widths: tuple, size: tuple, features: int, hidden: float, dtype: torch.dtype) -> None:
    students, teachers = ([torch.randn(2, w, *size, dtype=dtype) for _ in range(features)] for w in widths)
    shapes = [[m.shape[1:] for m in maps] for maps in (students, teachers)]
    loss = ViTKDLoss(*shapes, alpha=0.3, beta=0.7, hidden=hidden, loss_weight=2.0).to(dtype)
    torch.nn.init.normal_(loss.mask_token)
    noise = torch.rand(2, size[0] * size[1])
    want = 2 * slow_vitkd(loss, students, teachers, noise)
    assert loss(students, teachers, noise).item() == pytest.approx(want, rel=1e-10 if dtype == torch.float64 else 1e-4)


SHAPES = [(4, 3, 3)] * 3, [(5, 3, 3)] * 3


def test_the_weights_and_layers_are_the_published_ones() -> None:
    loss = ViTKDLoss(*SHAPES)
    assert (loss.alpha, loss.beta, loss.hidden) == (3e-5, 3e-6, 0.5)
    assert loss.mask_token.abs().sum() == 0
    assert sum(p.numel() for p in loss.parameters()) == 3 * (4 * 5 + 5) + 5 + 2 * (9 * 5 * 5 + 5)
    # of one width
    assert sum(p.numel() for p in ViTKDLoss(SHAPES[0], SHAPES[0]).parameters()) == 4 + 2 * (9 * 4 * 4 + 4)


@pytest.mark.parametrize(
    ('share', 'number', 'hidden'), [(0.5, 196, 98), (0.5, 9, 5), (0.3, 9, 3), (1.0, 4, 4), (0.01, 4, 1)]
)
def test_a_share_of_the_tokens_is_hidden(share: float, number: int, hidden: int) -> None:
    mask = hidden_tokens(torch.rand(6, number), share)
    assert mask.sum(dim=1).tolist() == [hidden] * 6


def test_other_tokens_are_hidden_in_each_batch() -> None:
    students, teachers = ([torch.randn(2, *shape) for shape in shapes] for shapes in SHAPES)
    loss = ViTKDLoss(*SHAPES)
    state = torch.get_rng_state()
    first, second = loss(students, teachers), loss(students, teachers)
    torch.set_rng_state(state)
    assert first != second
    assert loss(students, teachers) == first


def test_only_the_student_and_the_layers_learn() -> None:
    students, teachers = ([torch.randn(2, *shape, requires_grad=True) for shape in shapes] for shapes in SHAPES)
    loss = ViTKDLoss(*SHAPES)
    loss(students, teachers).backward()
    assert all(x.grad.abs().sum() > 0 for x in (*students, *loss.parameters()))
    assert all(m.grad is None for m in teachers)


def transformer(width: int, blocks: int = 4, **settings: int) -> dict:
    arch = dict(embed_dims=width, num_layers=blocks, num_heads=2, feedforward_channels=2 * width)
    backbone = dict(type='VisionTransformer', arch=arch, **{'img_size': 32, 'patch_size': 8, **settings})
    head = dict(type='VisionTransformerClsHead', num_classes=4, in_channels=width)
    return dict(type='ImageClassifier', backbone=backbone, head=head)


def algorithm_of(student: dict, teacher: dict) -> torch.nn.Module:
    return MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=student,
            teacher=teacher,
            random_teacher=True,
            distiller=recipes.compose_distiller(['vitkd']),
        )
    )


@pytest.mark.parametrize('width', [8, 12])
def test_a_transformer_learns_from_another(width: int) -> None:
    algorithm = algorithm_of(transformer(8), transformer(width)).train()
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    losses = algorithm(torch.randn(3, 3, 32, 32), samples, mode='loss')
    losses['distill.loss_vitkd'].backward()
    assert torch.isfinite(losses['distill.loss_vitkd'])
    reached = {name for name, p in algorithm.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name for name, _ in algorithm.named_parameters() if 'distill_losses' in name} <= reached
    # through the final norm, which the last tokens have passed
    assert {'architecture.backbone.layers.3.ffn.layers.1.weight', 'architecture.backbone.ln1.weight'} <= reached


@pytest.mark.parametrize(
    ('student', 'teacher', 'named'),
    [
        (transformer(8), transformer(8, patch_size=16), 'the same number of tokens.*same patch size'),
        (
            transformer(8),
            dict(
                type='ImageClassifier',
                backbone=dict(type='CIFARResNet', depth=8),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=4, in_channels=64),
            ),
            'plain vision transformers',
        ),
    ],
    ids=['patches', 'cnn'],
)
def test_refuses_pairs_that_it_cannot_match(student: dict, teacher: dict, named: str) -> None:
    with pytest.raises(SettingError, match=f'ViTKDLoss .*{named}'):
        algorithm_of(student, teacher)


def test_refuses_the_pairs_of_the_benchmark() -> None:
    with pytest.raises(SettingError, match='vitkd does not fit res56_res20_cifar100'):
        recipes.compose('res56_res20_cifar100', ['vitkd'])


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(alpha=-1.0), ': alpha=-1.0'),
        (dict(beta='3'), ": beta='3'"),
        (dict(hidden=0.0), ': hidden=0.0'),
        (dict(hidden=1.5), ': hidden=1.5'),
        (dict(hidden=True), ': hidden=True'),
        (dict(student_shapes=[(4, 3, 3)] * 2), ' compares the first blocks'),
        (dict(student_shapes=[(4, 3, 3), (4, 3, 3), (8, 3, 3)]), ' compares the tokens of plain'),
        (dict(student_shapes=[(4, 3, 6)] * 3), ' compares transformers with the same number of tokens'),
        (dict(student_shapes=[(9, 4)] * 3), ' compares the tokens of plain'),
    ],
    ids=str,
)
def test_refuses_settings(settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=f'ViTKDLoss{named}'):
        ViTKDLoss(**{'student_shapes': SHAPES[0], 'teacher_shapes': SHAPES[1], **settings})


def test_refuses_other_images() -> None:
    students, teachers = [torch.randn(2, 4, 3, 3)] * 3, [torch.randn(3, 5, 3, 3)] * 3
    with pytest.raises(SettingError, match=r'batch sizes differ: s_features have \[2, 2, 2\]'):
        ViTKDLoss(*SHAPES)(students, teachers)
