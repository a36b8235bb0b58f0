"""What is corrected in mmpretrain's retrievers: similarities, and galleries that are encoded again."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launches import in_processes
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.model import ExponentialMovingAverage
from mmpretrain.engine.hooks import PrepareProtoBeforeValLoopHook
from mmpretrain.models import ImageToImageRetriever
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader

from icd_mmrazor.errors import SettingError


def retriever(**settings: object) -> ImageToImageRetriever:
    return ImageToImageRetriever(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), torch.ones(3, 5), **settings)


@pytest.mark.parametrize('name', ['cosine_similarity', 'dot_product'])
def test_similarities_against_a_slow_rewrite(name: str) -> None:
    queries, gallery = torch.randn(6, 7, dtype=torch.float64), torch.randn(9, 7, dtype=torch.float64)

    def similarity(u: Tensor, v: Tensor) -> float:
        product = sum(a * b for a, b in zip(u.tolist(), v.tolist(), strict=True))
        lengths = sum(a * a for a in u.tolist()) * sum(b * b for b in v.tolist())
        return product if name == 'dot_product' else product / lengths**0.5

    want = torch.tensor([[similarity(u, v) for v in gallery] for u in queries], dtype=torch.float64)
    torch.testing.assert_close(retriever(similarity_fn=name).similarity_fn(queries, gallery), want)


def test_a_callable_is_used_as_it_is() -> None:
    def own(queries: Tensor, gallery: Tensor) -> Tensor:
        return -torch.cdist(queries, gallery)

    assert retriever(similarity_fn=own).similarity_fn is own


def test_an_unknown_similarity_is_refused() -> None:
    with pytest.raises(SettingError, match=r"similarity_fn='cosine_similarty'.*Did you mean cosine_similarity"):
        retriever(similarity_fn='cosine_similarty').predict(torch.ones(1, 1, 2, 2))


class Algorithm(nn.Module):
    """As of mmrazor: the retriever is its student."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.architecture = student


@pytest.mark.parametrize('inside', [False, True])
def test_a_gallery_is_stale_before_each_validation(inside: bool) -> None:
    network = retriever()
    network.predict(torch.ones(1, 1, 2, 2))
    assert network.prototype_inited
    runner = SimpleNamespace(model=Algorithm(network) if inside else network)
    PrepareProtoBeforeValLoopHook().before_val(runner)
    assert not network.prototype_inited


def test_what_is_not_a_retriever_is_said(caplog: pytest.LogCaptureFixture) -> None:
    runner = SimpleNamespace(model=nn.Linear(1, 1), logger=logging.getLogger('of this test'))
    PrepareProtoBeforeValLoopHook().before_val(runner)
    assert 'Linear' in caplog.text


def embedded_here(_: int, drop_last: bool) -> Tensor:
    network = retriever()
    nn.init.ones_(network.image_encoder[1].weight)
    nn.init.zeros_(network.image_encoder[1].bias)
    samples = [
        dict(inputs=torch.full((1, 2, 2), i + 1.0), data_samples=DataSample(metainfo=dict(sample_idx=i)))
        for i in range(5)
    ]
    loader = DataLoader(
        samples, 2, sampler=DefaultSampler(samples, shuffle=False), collate_fn=pseudo_collate, drop_last=drop_last
    )
    network.prototype = loader
    network.prepare_prototype()
    return network.prototype_vecs


def test_two_processes_embed_a_gallery_as_one(tmp_path: Path) -> None:
    """Of five images, one goes to both."""
    for found in in_processes(embedded_here, 2, tmp_path, False):
        assert found.tolist() == [[4.0 * (i + 1)] * 5 for i in range(5)]
    assert embedded_here(0, False).tolist() == found.tolist()


def test_a_gallery_without_its_last_images_is_refused() -> None:
    with pytest.raises(SettingError, match=r'1 of the 5 images .* drop_last'):
        embedded_here(0, True)


@pytest.mark.parametrize('own', [False, True])
def test_a_gallery_moves_with_the_network(own: bool) -> None:
    network = retriever(similarity_fn=(lambda queries, gallery: queries @ gallery.T) if own else 'dot_product')
    images = torch.ones(1, 1, 2, 2)
    single = network.predict(images)[0].pred_score
    double = network.double().predict(images.double())[0].pred_score
    assert (network.prototype_vecs.dtype, double.dtype) == (torch.float64, torch.float64)
    torch.testing.assert_close(double, single.double())
    assert network.to('meta').prototype_vecs.is_meta


def test_averages_of_a_retriever() -> None:
    network = retriever()
    network.extra = nn.BatchNorm1d(4)
    averaged = ExponentialMovingAverage(network)
    network.prepare_prototype()
    network.extra.running_mean.fill_(7.0)
    averaged.update_parameters(network)
    assert averaged.module.extra.running_mean.tolist() == [7.0] * 4
    network.prepare_prototype()
    assert network.prototype_vecs.tolist() == torch.ones(3, 5).tolist()
    assert 'prototype_vecs' not in dict(network.named_buffers())
