"""Distillations for a search of images, from runs to their galleries, against encodings made here."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import logged, scalars, shipped
from launches import in_processes
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DefaultScope
from mmpretrain.registry import MODELS as NETWORKS
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.utils.data import Sampler

from icd_mmrazor.engine import galleries
from icd_mmrazor.engine.hooks import teacher_gallery_hook
from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.export.student import plain_student

ROWS = ('direct', 'score', 'gallery', 'matching', 'generated')
SEARCH = 'retrieval/MRR@10'


def dicts(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from dicts(item)


@pytest.fixture
def retriever_file(tmp_path: Path) -> str:
    """Write seeded random weights of the teacher."""
    file = tmp_path / 'retriever.pth'
    if not file.is_file():
        torch.save({'state_dict': NETWORKS.build(teacher_config()).state_dict()}, file)
    return str(file)


def teacher_config() -> dict:
    cfg = copy.deepcopy(shipped('embeddistill/digits_teacher.py').model)
    cfg.image_encoder[0].depth = 14
    cfg.prototype = torch.zeros(1, 128)
    return cfg


@pytest.fixture
def search_config(images_file: Path, retriever_file: str, tmp_path: Path) -> Callable[..., Config]:
    """Return a config of ``configs/embeddistill`` on a gallery of 104 small images."""

    def config(row: str, **options: object) -> Config:
        cfg = shipped(f'embeddistill/digits_{row}.py')
        for each in dicts(cfg._cfg_dict):
            if 'data_file' in each:
                each.data_file = str(images_file)
        cfg.work_dir = str(tmp_path / 'work')
        cfg.train_dataloader.batch_size = 16
        if 'batch_sampler' in cfg.train_dataloader:
            cfg.train_dataloader.batch_sampler.unlabeled = 8
        if 'teacher' in cfg.model:
            teacher = teacher_config()
            teacher.prototype = 'unused.pth'
            cfg.model.update(teacher=teacher, teacher_ckpt=retriever_file)
        settings = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'randomness.seed': 0}
        cfg.merge_from_dict({**settings, **options})
        return cfg

    return config


def pictures(file: Path) -> Tensor:
    """All images of the gallery, as the data preprocessor of the digits prepares them."""
    arrays = np.load(file)
    images = np.concatenate([arrays['train_images'], arrays['test_images']])
    return ((torch.from_numpy(images).float() - 78) / 81)[:, None].expand(-1, 3, -1, -1)


@torch.no_grad()
def encoded(encoder: nn.Module, images: Tensor) -> Tensor:
    encoder = copy.deepcopy(encoder).eval()
    return torch.cat([encoder(part)[-1] for part in images.split(20)])


@pytest.mark.slow
@pytest.mark.parametrize('row', ROWS)
def test_every_row_trains_and_searches(row: str, search_config: Callable, runner: Callable, images_file: Path) -> None:
    cfg = search_config(row)
    run = runner(cfg)
    model = run.train()
    student = getattr(model, 'architecture', model)
    asymmetric = row in ROWS[2:]
    encoder = model.teacher.image_encoder if asymmetric else student.image_encoder
    want = encoded(encoder, pictures(images_file))
    torch.testing.assert_close(student.prototype_vecs, want, rtol=1e-4, atol=1e-5)
    # the metric, query by query
    found = run.message_hub.log_scalars[f'val/{SEARCH}'].current()
    ranks = []
    for i in range(len(run.val_dataloader.dataset)):
        image = (run.val_dataloader.dataset[i]['inputs'].float() - 78) / 81
        scores = torch.cosine_similarity(encoded(student.image_encoder, image[None]), want)
        ranks.append(1 + int((scores > scores[64 + i]).sum()))
    assert found == pytest.approx(100 * sum(1 / each for each in ranks if each <= 10) / 40, abs=2)
    if row != 'direct':
        teacher = run.message_hub.get_info('teacher_metrics')
        assert {SEARCH, 'retrieval/Recall@1', 'retrieval/Recall@5', 'retrieval/Recall@20'} <= teacher.keys()
    losses = {name for line in scalars(run) for name in line if 'loss' in name}
    assert ('distill.loss_matching' in losses) == (row in ROWS[3:])
    assert ('student.loss' in losses) == (row == 'score')


class Galleries(Hook):
    """Keep what the student searches in, and the weights, at the end of each validation."""

    priority = 'NORMAL'

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, nn.Module]] = []

    def after_val_iter(self, runner: object, batch_idx: int, **_: object) -> None:
        model = runner.model
        student = getattr(model, 'architecture', model)
        self.seen.append((student.prototype_vecs.clone(), copy.deepcopy(student.image_encoder)))


@pytest.mark.slow
@pytest.mark.parametrize('averaged', [False, True])
def test_a_symmetric_student_embeds_the_gallery_before_each_validation(
    averaged: bool, search_config: Callable, runner: Callable, images_file: Path
) -> None:
    cfg = search_config('score', **{'train_cfg.max_epochs': 2})
    if averaged:  # the first of the two hooks, as in a user's config
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='EMAHook', momentum=0.5)]
    run, hook = runner(cfg), Galleries()
    run.register_hook(hook)
    run.train()
    assert len(hook.seen) == 2
    for gallery, encoder in hook.seen:
        torch.testing.assert_close(gallery, encoded(encoder, pictures(images_file)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(hook.seen[0][0], hook.seen[1][0], atol=1e-3)


class Keeper(nn.Module):
    """Another reader of the gallery, which keeps no buffer."""

    def set_gallery(self, embeddings: Tensor) -> None:
        self.given = embeddings


@pytest.mark.slow
def test_a_resumed_run_keeps_the_gallery(search_config: Callable, runner: Callable) -> None:
    cfg = search_config('matching')
    first = runner(cfg).train()
    gallery = first.distiller.distill_losses['loss_scores'].gallery
    assert gallery.any()
    stored = torch.load(Path(cfg.work_dir, 'epoch_1.pth'), weights_only=True)['state_dict']
    assert torch.equal(stored['distiller.distill_losses.loss_scores.gallery'], gallery)
    continued = {'train_cfg.max_epochs': 2, 'resume': True, 'default_hooks.sanity_check.resume_changes': 'list'}
    with mock.patch.object(teacher_gallery_hook, 'teacher_gallery', side_effect=AssertionError('embedded again')):
        resumed = runner(search_config('matching', **continued))
        resumed.model.distiller.keeper = Keeper()
        model = resumed.train()
    assert torch.equal(model.distiller.distill_losses['loss_scores'].gallery, gallery)
    assert torch.equal(model.distiller.keeper.given, gallery)
    assert torch.equal(model.architecture.prototype_vecs, gallery)
    # of fewer images
    changed = search_config('matching', **continued)
    changed.model.architecture.prototype.dataset.dataset.datasets[0].indices = 10
    with pytest.raises(CheckpointError, match=r'another shape.*loss_scores\.gallery'):
        runner(changed).train()


@pytest.mark.slow
def test_a_checkpoint_in_another_gallery(
    search_config: Callable, runner: Callable, images_file: Path, tmp_path: Path
) -> None:
    """A test, or a training that starts from a checkpoint, embeds its own images by its own teacher."""
    cfg = search_config('matching')
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='EMAHook', momentum=0.5)]
    runner(cfg).train()
    other = NETWORKS.build(teacher_config())
    torch.save({'state_dict': other.state_dict()}, tmp_path / 'other.pth')
    options = {'load_from': str(Path(cfg.work_dir, 'epoch_1.pth')), 'model.teacher_ckpt': str(tmp_path / 'other.pth')}
    of_another_teacher = runner(search_config('matching', **options))
    of_another_teacher.test()
    changed = search_config('matching', **options, work_dir=str(tmp_path / 'changed'))
    for gallery in (
        changed.model.architecture.prototype.dataset.dataset,
        changed.train_dataloader.dataset.gallery,
        changed.val_dataloader.dataset.gallery,
    ):  # twice the images to train on
        gallery.datasets = [gallery.datasets[0], gallery.datasets[0], gallery.datasets[1]]
    changed.custom_hooks = cfg.custom_hooks
    model = runner(changed).train()
    want = encoded(other.image_encoder, pictures(images_file))
    for found, gallery in ((of_another_teacher.model, want), (model, torch.cat([want[:64], want]))):
        torch.testing.assert_close(found.architecture.prototype_vecs, gallery, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.distiller.distill_losses['loss_scores'].gallery, gallery, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_symmetric_student_becomes_asymmetric(
    search_config: Callable, runner: Callable, images_file: Path, tmp_path: Path
) -> None:
    """Its checkpoint has an empty gallery."""
    cfg = search_config('score')
    runner(cfg).train()
    file = str(Path(cfg.work_dir, 'epoch_1.pth'))
    model = runner(search_config('gallery', load_from=file, work_dir=str(tmp_path / 'second'))).train()
    want = encoded(model.teacher.image_encoder, pictures(images_file))
    torch.testing.assert_close(model.architecture.prototype, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_gallery_in_a_file(search_config: Callable, runner: Callable, tmp_path: Path) -> None:
    """mmpretrain's own way to search in another network's embeddings: nobody knows whose they are."""
    embeddings = torch.randn(104, 128, generator=torch.Generator().manual_seed(0))
    torch.save(embeddings, tmp_path / 'gallery.pth')
    cfg = search_config('matching', custom_hooks=[])
    cfg.model.architecture.prototype = str(tmp_path / 'gallery.pth')
    cfg.model.distiller.losses.pop('scores')
    run = runner(cfg)
    model = run.train()
    assert torch.equal(model.architecture.prototype_vecs, embeddings)
    assert run.message_hub.get_info('teacher_metrics') == {}
    assert 'not evaluated: prototype of the student does not name images' in logged(cfg)


def test_embeddings_of_unknown_networks_are_not_the_teachers() -> None:
    student = NETWORKS.build(teacher_config())  # its prototype is a tensor
    algorithm = SimpleNamespace(architecture=student)
    run = SimpleNamespace(val_loop=SimpleNamespace(dataloader=[], evaluator=None))
    assert galleries.evaluate_search(algorithm, run) == {}
    with pytest.raises(SettingError, match='prototype is a Tensor'):
        galleries.gallery_loader(student)


def embedded_here(_: int, settings: dict) -> Tensor:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        algorithm = MODELS.build(settings)
        algorithm.init_weights()
        return galleries.teacher_gallery(algorithm, galleries.gallery_loader(algorithm.architecture))


def test_two_processes_embed_a_gallery(search_config: Callable, images_file: Path, tmp_path: Path) -> None:
    """Of an odd number of images, one goes to both."""
    cfg = search_config('gallery')
    cfg.model.architecture.prototype.batch_size = 20
    cfg.model.architecture.prototype.dataset.dataset.datasets[0].indices = 63
    cfg.model.data_preprocessor = cfg.data_preprocessor
    teacher = NETWORKS.build(teacher_config())
    teacher.load_state_dict(torch.load(cfg.model.teacher_ckpt, weights_only=True)['state_dict'])
    images = pictures(images_file)
    want = encoded(teacher.image_encoder, torch.cat([images[:63], images[64:]]))
    for found in in_processes(embedded_here, 2, tmp_path, cfg.model.to_dict()):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_left_out_images_are_refused(search_config: Callable) -> None:
    cfg = search_config('gallery')
    cfg.model.data_preprocessor = cfg.data_preprocessor
    settings = cfg.model.to_dict()
    settings['architecture']['prototype']['drop_last'] = True
    with pytest.raises(SettingError, match='drop_last=True'):
        embedded_here(0, settings)
    settings['architecture']['prototype'].update(drop_last=False, sampler=dict(type='HalfSampler'))
    with pytest.raises(SettingError, match='leaves out 52 of the 104 images'):
        embedded_here(0, settings)


@DATA_SAMPLERS.register_module(force=True)
class HalfSampler(Sampler):
    """Every second image."""

    def __init__(self, dataset: object, **_: object) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[int]:
        return iter(range(0, len(self.dataset), 2))

    def __len__(self) -> int:
        return len(self.dataset) // 2


@pytest.mark.slow
def test_the_exported_student_searches_in_the_teachers_gallery(search_config: Callable, runner: Callable) -> None:
    cfg = search_config('matching')
    model = runner(cfg).train()
    exported = Config.fromfile(Path(cfg.work_dir, 'student.py'))
    student = NETWORKS.build(exported.model).eval()
    student.load_state_dict(torch.load(Path(cfg.work_dir, 'student_last.pth'), weights_only=True)['state_dict'])
    images = torch.randn(3, 3, 16, 16)
    found, want = (network.predict(images) for network in (student, model.architecture.eval()))
    for ours, theirs in zip(found, want, strict=True):
        torch.testing.assert_close(ours.pred_score, theirs.pred_score)
    assert torch.equal(student.prototype_vecs, model.architecture.prototype)


def test_the_exported_student_knows_where_its_gallery_is(search_config: Callable) -> None:
    """Wherever it is built."""
    cfg = search_config('gallery', work_dir='work')
    assert plain_student(cfg).model.prototype == str(Path.cwd() / 'work' / 'gallery.pth')


@pytest.mark.slow
def test_a_classifier_as_teacher(
    search_config: Callable, runner: Callable, network: Callable, teacher_file: Callable, images_file: Path
) -> None:
    """The gallery has what it classifies."""
    cfg = search_config('gallery')
    cfg.model.teacher, cfg.model.teacher_ckpt = network('res20'), teacher_file('res20')
    cfg.model.architecture.image_encoder[2].out_channels = 64
    run = runner(cfg)
    model = run.train()
    with torch.no_grad():
        maps = model.teacher.backbone(pictures(images_file))
        want = model.teacher.neck(maps)[-1]
    torch.testing.assert_close(model.architecture.prototype, want, rtol=1e-4, atol=1e-5)
    assert run.message_hub.get_info('teacher_metrics')[SEARCH] >= 0


@pytest.mark.slow
def test_refusals_before_training(search_config: Callable, runner: Callable, network: Callable) -> None:
    narrow = search_config('gallery')
    narrow.model.architecture.image_encoder[2].out_channels = 96
    with pytest.raises(SettingError, match=r'LinearProjection|out_channels=128'):
        runner(narrow).train()
    narrow.model.architecture.image_encoder.pop()
    narrow.model.distiller.losses.scores.inputs.s_query.connector = dict(type='LinearProjection', out_features=128)
    with pytest.raises(SettingError, match=r"have 64 dimensions, the teacher's 128.*LinearNeck.*, in_channels=64"):
        runner(narrow).train()
    few = search_config('gallery')
    few.val_evaluator[0].topk = (1, 105)
    with pytest.raises(SettingError, match='topk=105, and the gallery has 104 images'):
        runner(few).train()
    classifier = search_config('gallery')
    classifier.model.architecture = network('res8')
    with pytest.raises(SettingError, match='ImageToImageRetriever'):
        runner(classifier).train()
    file = search_config('gallery')
    file.model.architecture.prototype = 'gallery.pth'
    with pytest.raises(SettingError, match='GalleryDataset'):
        runner(file).train()
    assert 'Traceback' not in logged(file)


def test_images_without_positions_are_refused(images_file: Path) -> None:
    """A loader whose samples do not say which image they are."""
    algorithm = mock.Mock(data_preprocessor=lambda batch, _: batch, distiller=None)
    algorithm.teacher = NETWORKS.build(teacher_config())
    algorithm.run_teacher = algorithm.teacher
    sample = mock.Mock(get=lambda _: None)
    loader = mock.MagicMock(dataset=[0])
    loader.__iter__.return_value = iter([dict(inputs=torch.zeros(1, 3, 16, 16), data_samples=[sample])])
    with pytest.raises(SettingError, match='sample_idx'):
        galleries.teacher_gallery(algorithm, loader)


def test_a_retriever_named_by_its_file() -> None:
    """As a teacher, with its preparation of images."""
    settings = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture='icd_mmrazor::embeddistill/digits_direct.py',
        teacher='icd_mmrazor::embeddistill/digits_teacher.py',
        random_teacher=True,
        distiller=dict(
            type='FeatureDistiller',
            losses=dict(matching=dict(loss=dict(type='EmbeddingMatchingLoss'), features='embedding')),
        ),
    )
    algorithm = MODELS.build(settings)
    assert algorithm.teacher.data_preprocessor.mean.flatten().tolist() == [78.0] * 3
    assert not algorithm.teacher_view.changes
