"""The losses of EmbedDistill against slow rewrites of their equations."""

import math

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.losses import EmbeddingMatchingLoss, ScoreDistillationLoss
from icd_mmrazor.models.retrievers import InBatchRetrievalHead

IMAGES, WIDTH, NARROW = 5, 4, 3


def log_softmax(row: list) -> list:
    largest = max(row)
    total = sum(np.exp(value - largest) for value in row)
    return [value - largest - np.log(total) for value in row]


def embed_distill(
    queries: np.ndarray,
    projection: np.ndarray,
    t_queries: np.ndarray,
    documents: np.ndarray,
    tau: float,
    w_score: float,
    w_embed: float,
) -> float:
    """The objective for an asymmetric student, image by image: equations 9, 11 and 7."""
    n = len(queries)
    embedded = [projection @ query for query in queries]
    one_hot = score = matching = 0.0
    for i in range(n):
        student = log_softmax([embedded[i] @ documents[j] / tau for j in range(n)])
        teacher = [np.exp(value) for value in log_softmax([t_queries[i] @ documents[j] / tau for j in range(n)])]
        one_hot -= student[i] / n
        score -= sum(p * s for p, s in zip(teacher, student, strict=True)) / n
        matching += math.sqrt(((t_queries[i] - embedded[i]) ** 2).sum()) / n
    return one_hot + w_score * score + w_embed * matching


def gradient(function: object, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences."""
    found = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        found[place] = (function(at + moved) - function(at - moved)) / (2 * step)
    return found


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = dict(queries=(IMAGES, NARROW), projection=(WIDTH, NARROW), t_queries=(IMAGES, WIDTH))
    return {name: generator.normal(size=size) for name, size in {**shapes, 'documents': (IMAGES, WIDTH)}.items()}


@pytest.mark.parametrize(('tau', 'w_score', 'w_embed'), [(1.0, 1.0, 1.0), (0.2, 0.3, 5.0), (2.0, 0.0, 0.0)])
def test_the_objective_of_an_asymmetric_student(
    arrays: dict[str, np.ndarray], tau: float, w_score: float, w_embed: float
) -> None:
    """Values to 1e-12, gradients of queries and projection as far as differences are exact."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    queries, projection = (tensors[name].requires_grad_() for name in ('queries', 'projection'))
    embedded = queries @ projection.T
    scores = ScoreDistillationLoss(tau=tau, score_weight=w_score)
    matching = EmbeddingMatchingLoss(loss_weight=w_embed)
    loss = scores(embedded, tensors['t_queries'], tensors['documents']) + matching(embedded, tensors['t_queries'])
    loss.backward()
    assert loss.item() == pytest.approx(embed_distill(**arrays, tau=tau, w_score=w_score, w_embed=w_embed), abs=1e-12)
    for name, tensor in (('queries', queries), ('projection', projection)):

        def of(value: np.ndarray, name: str = name) -> float:
            return embed_distill(**{**arrays, name: value}, tau=tau, w_score=w_score, w_embed=w_embed)

        np.testing.assert_allclose(tensor.grad.numpy(), gradient(of, arrays[name]), rtol=0, atol=2e-8)


def test_equal_embeddings_have_no_gradient() -> None:
    """The Euclidean length has no derivative at 0."""
    student = torch.randn(3, 4, requires_grad=True)
    teacher = student.detach().clone()
    teacher[0] += 1.0
    EmbeddingMatchingLoss()(student, teacher).backward()
    assert torch.isfinite(student.grad).all()
    assert (student.grad[1:] == 0).all()
    torch.testing.assert_close(student.grad[0], torch.full((4,), -0.5 / 3))


@pytest.mark.parametrize(
    ('distance', 'want'),
    [
        ('l2', lambda s, t: np.mean([math.dist(a, b) for a, b in zip(s, t, strict=True)])),
        ('mse', lambda s, t: np.mean([(a - b) ** 2 for a, b in zip(s.flat, t.flat, strict=True)])),
        ('cosine', lambda s, t: np.mean([1 - a @ b / math.hypot(*a) / math.hypot(*b) for a, b in zip(s, t)])),  # noqa: B905
    ],
)
@pytest.mark.parametrize('normalize', [False, True])
def test_distances(arrays: dict[str, np.ndarray], distance: str, want: object, normalize: bool) -> None:
    student, teacher = arrays['documents'], arrays['t_queries']
    found = EmbeddingMatchingLoss(distance, normalize)(torch.from_numpy(student), torch.from_numpy(teacher))
    if normalize:
        student, teacher = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (student, teacher))
    assert found.item() == pytest.approx(want(student, teacher), abs=1e-12)


def labelled(*positions: int | None) -> list[DataSample]:
    """Data samples of queries, the generated ones without a document."""
    samples = []
    for position in positions:
        sample = DataSample()
        if position is None:
            sample.set_gt_label(torch.empty(0, dtype=torch.int64)).set_metainfo({'unlabeled': True})
        else:
            sample.set_gt_label([position])
        samples.append(sample)
    return samples


def gallery_loss(**settings: object) -> tuple[ScoreDistillationLoss, Tensor]:
    loss, gallery = ScoreDistillationLoss(**settings), torch.randn(9, WIDTH)
    loss.set_gallery(gallery)
    return loss, gallery


def test_documents_are_looked_up_and_generated_queries_do_not_count() -> None:
    loss, gallery = gallery_loss()
    student, teacher = torch.randn(5, WIDTH, requires_grad=True), torch.randn(5, WIDTH)
    found = loss(student, teacher, data_samples=labelled(7, 2, 0, None, None))
    torch.testing.assert_close(found, loss(student[:3], teacher[:3], gallery[[7, 2, 0]]))
    found.backward()
    assert (student.grad[3:] == 0).all()
    assert (student.grad[:3] != 0).any()
    one = DataSample().set_gt_label([7, 2, 0])  # as they are merged for a compiler
    torch.testing.assert_close(loss(student, teacher, data_samples=[one]), found)
    assert loss(student, teacher, data_samples=labelled(*[None] * 5)) == 0


def test_a_symmetric_batch_has_its_own_documents() -> None:
    loss = ScoreDistillationLoss(normalize=True)
    student, teacher = torch.randn(6, WIDTH), torch.randn(6, WIDTH)
    samples = labelled(1, 2, 3, 1, 2, 3)
    for i, sample in enumerate(samples):
        sample.set_metainfo({'augmentation': 'weak' if i < 3 else 'strong'})
    want = loss(student[3:], teacher[3:], teacher[:3], student[:3])
    torch.testing.assert_close(loss(student, teacher, data_samples=samples), want)
    # the head has the one-hot term alone
    one_hot = ScoreDistillationLoss(score_weight=0.0, normalize=True)(
        student[3:], teacher[3:], teacher[:3], student[:3]
    )
    torch.testing.assert_close(InBatchRetrievalHead().loss((student,), samples)['loss'], one_hot)


def test_a_gallery_survives_a_checkpoint() -> None:
    loss, gallery = gallery_loss()
    fresh = ScoreDistillationLoss()
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.gallery, gallery)
    other = ScoreDistillationLoss()
    other.set_gallery(torch.zeros(8, WIDTH))
    with pytest.raises(CheckpointError, match=r'\(9, 4\).*\(8, 4\)'):
        other.load_state_dict(loss.state_dict())


def test_an_empty_gallery_of_a_checkpoint_is_as_none() -> None:
    loss = ScoreDistillationLoss()
    loss.set_gallery(torch.ones(3, 2))
    loss.load_state_dict(ScoreDistillationLoss().state_dict())
    assert loss.gallery.tolist() == torch.ones(3, 2).tolist()


def test_one_query_has_no_negatives() -> None:
    query, document = torch.randn(2, 1, 4)
    assert ScoreDistillationLoss()(query, query, document).item() == 0.0
    head, sample = InBatchRetrievalHead(), DataSample(metainfo=dict(augmentation='weak'))
    samples = [sample, DataSample(metainfo=dict(augmentation='strong'))]
    assert head.loss(torch.cat([document, query]), samples)['loss'].item() == 0.0


def test_refusals() -> None:
    loss, _ = gallery_loss()
    query, wide = torch.randn(2, WIDTH), torch.randn(2, WIDTH + 1)
    for arguments, named in (
        (dict(s_query=wide, t_query=query), 'LinearProjection'),
        (dict(s_query=wide, t_query=wide, data_samples=labelled(0, 1)), 'LinearNeck'),
        (dict(s_query=query, t_query=query), 'QueryDataset'),
        (dict(s_query=query, t_query=query, data_samples=[DataSample(), DataSample()]), 'QueryDataset'),
        (dict(s_query=query, t_query=query, data_samples=labelled(0, 9)), 'prototype'),
        (dict(s_query=query, t_query=query, t_document=query[:1]), 'one document for each query'),
    ):
        with pytest.raises(SettingError, match=named):
            loss(**arguments)
    with pytest.raises(SettingError, match='TeacherGalleryHook'):
        ScoreDistillationLoss()(query, query, data_samples=labelled(0, 1))
    with pytest.raises(SettingError, match='with_documents'):
        InBatchRetrievalHead().loss(query, labelled(0, 1))
    with pytest.raises(SettingError, match='tau'):
        ScoreDistillationLoss(tau=0)
    with pytest.raises(SettingError, match='distance'):
        EmbeddingMatchingLoss('l1')


def test_a_shared_connector_brings_queries_to_the_teachers_width() -> None:
    """Both losses take the student's query through one projection, as the paper's ``proj``."""
    network = dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='CIFARResNet', depth=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=64),
    )
    teacher = {**network, 'backbone': dict(type='CIFARResNet', depth=8, base_channels=32)}
    teacher['head'] = {**network['head'], 'in_channels': 128}
    query = dict(network='student', feature='embedding', connector='proj')
    distiller = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='FeatureDistiller',
            connectors=dict(proj=dict(type='LinearProjection', out_features=128)),
            losses=dict(
                scores=dict(
                    loss=dict(type='ScoreDistillationLoss'),
                    inputs=dict(s_query=query, t_query=dict(network='teacher', feature='embedding')),
                ),
                matching=dict(
                    loss=dict(type='EmbeddingMatchingLoss'),
                    inputs=dict(s_feature=query, t_feature=dict(network='teacher', feature='embedding')),
                ),
            ),
        )
    )
    student = MODELS.build(network)
    distiller.prepare_from_student(student)
    distiller.prepare_from_teacher(MODELS.build(teacher))
    assert [*distiller.connectors] == ['proj']
    assert distiller.connectors['proj'].linear.weight.shape == (128, 64)
