"""A recorded feature is what its module takes or gives, in every algorithm, network and shipped config."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import CONFIGS, methods_of_views
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmpretrain.structures import DataSample
from mmrazor.models.task_modules.recorder import ModuleInputsRecorder, ModuleOutputsRecorder
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.models.algorithms.records import recorders_of
from icd_mmrazor.recipes import compose

MIXED = sorted((CONFIGS / 'mixed').glob('*.py'))
OUTPUT, INPUT = (dict(type=f'mmrazor.Module{which}', source='norm') for which in ('Outputs', 'Inputs'))


class InPlace(BaseModel):
    """A residual block that overwrites what its modules take and give, by functions too."""

    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.doubling, self.relu = self.Doubling(), nn.ReLU(inplace=True)
        self.fc = nn.Linear(3, 10)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        out = self.norm(self.conv(inputs))
        out += inputs
        out = self.relu(self.doubling(out))
        logits = self.fc(F.relu(out.mean((2, 3)), inplace=True))
        return {'loss': logits.square().mean()} if mode == 'loss' else logits


MODELS.register_module(module=InPlace, force=True)


def tensors(record: Any) -> list[Tensor]:
    if isinstance(record, Tensor):
        return [record]
    return [tensor for item in record for tensor in tensors(item)] if isinstance(record, list | tuple) else []


def own_records(network: nn.Module, source: str, inputs: bool) -> list[Tensor]:
    """Copy what a module takes or gives in hooks that are not those of a recorder."""
    copies: list[Tensor] = []
    module = network.get_submodule(source)
    if inputs:
        module.register_forward_pre_hook(lambda _, given: copies.extend(t.detach().clone() for t in tensors(given)))
    else:
        module.register_forward_hook(lambda _, __, given: copies.extend(t.detach().clone() for t in tensors(given)))
    return copies


def assert_recorded(model: nn.Module, images: Tensor, samples: list[DataSample]) -> dict[str, list[Tensor]]:
    """Run an algorithm, compare what every recorder has with copies made otherwise, and return that."""
    teacher = getattr(model, 'teacher', model.architecture)
    found, wanted, got = {}, {}, {}
    for name, network in (('student', model.architecture), ('teacher', teacher)):
        for number, recorder in enumerate(recorders_of(model.distiller, name)):
            if isinstance(recorder, ModuleOutputsRecorder):
                found[f'{name} {number} {recorder.source}'] = recorder
                inputs = isinstance(recorder, ModuleInputsRecorder)
                wanted[f'{name} {number} {recorder.source}'] = own_records(network, recorder.source, inputs)

    def losses() -> dict:
        got.update({name: tensors(recorder.data_buffer) for name, recorder in found.items()})
        return {}

    model.distiller.compute_distill_losses = losses
    model(images, samples, mode='loss')
    del model.distiller.compute_distill_losses
    assert got.keys() == wanted.keys()
    for name, records in got.items():
        assert records, name
        for record, own in zip(records, wanted[name], strict=True):
            assert torch.equal(record, own), name
    return got


def algorithm_of(kind: str, network: Any, sources: dict[str, dict]) -> nn.Module:
    distiller = dict(type='ConfigurableDistiller', student_recorders=sources, teacher_recorders=sources)
    settings = {
        'SelfDistill': dict(distiller={**distiller, 'type': 'BYOTDistiller'}),
        'SingleTeacherDistill': dict(distiller=distiller, teacher=copy.deepcopy(network)),
        'FrozenTeacherDistill': dict(distiller=distiller, teacher=copy.deepcopy(network), random_teacher=True),
    }
    cfg = dict(_scope_='mmrazor', type=kind, architecture=network, **settings[kind])
    model = MODELS.build(cfg)
    # of SingleTeacherDistill it returns nothing
    model.train()
    return model


@pytest.mark.parametrize('module_inplace', [False, True])
@pytest.mark.parametrize('kind', ['SingleTeacherDistill', 'FrozenTeacherDistill', 'SelfDistill'])
def test_networks_that_work_in_place(kind: str, module_inplace: bool, batch: Callable) -> None:
    sources = {
        'norm': OUTPUT,
        'norm_input': INPUT,
        'relu': dict(type='mmrazor.ModuleInputs', source='relu'),
        'doubling': dict(type='mmrazor.ModuleInputs', source='doubling'),
        'doubled': dict(type='mmrazor.ModuleOutputs', source='doubling'),
        'pooled': dict(type='mmrazor.ModuleInputs', source='fc'),
    }
    model = algorithm_of(kind, InPlace(), sources)
    for module in model.architecture.modules():
        if hasattr(module, 'inplace'):
            module.inplace = module_inplace
    records = assert_recorded(model, *batch())
    assert any((record < 0).any() for name, values in records.items() if name.endswith(' norm') for record in values)


@pytest.mark.parametrize('kind', ['SingleTeacherDistill', 'FrozenTeacherDistill', 'SelfDistill'])
def test_a_batch_norm_before_an_activation(kind: str, network: Callable, batch: Callable) -> None:
    """That mmrazor switches ``inplace`` off in all modules, those in ``ConvModule``, too."""
    sources = {f'{i}': dict(type='mmrazor.ModuleOutputs', source=f'backbone.features.{i}.bn') for i in (0, 2)}
    model = algorithm_of(kind, network('vgg8'), sources)
    assert not any(getattr(module, 'inplace', False) for module in model.modules())
    records = assert_recorded(model, *batch())
    assert all((values[0] < 0).any() for values in records.values())


@pytest.mark.parametrize('file', MIXED, ids=lambda file: file.stem)
def test_shipped_configs(file: Path) -> None:
    cfg = Config.fromfile(file).model
    cfg.update(teacher_ckpt=None, random_teacher=True)
    check_config(cfg)


@pytest.mark.parametrize('pair', ['wrn40-2_wrn16-2_cifar100', 'vgg13_vgg8_cifar100'])
def test_shipped_methods(pair: str) -> None:
    """All at once, in both stages."""
    # FSP needs networks with maps of the same sizes, ViTKD transformers; AFD and RTK record after activations
    methods = {*methods_of_views(1)} - {'fsp', 'vitkd', 'afd', 'rtk'}
    cfg = compose(pair, sorted(methods)).model
    cfg.update(teacher_ckpt=None, random_teacher=True)
    check_config(cfg)


def check_config(cfg: Config) -> None:
    model = MODELS.build(cfg).train()
    if hasattr(model.distiller, 'set_stage'):
        model.distiller.set_stage('main')
    images = torch.randn(2, 3, 32, 32)
    records = assert_recorded(model, images, [DataSample().set_gt_label(i) for i in range(2)])
    for name, values in records.items():
        if name.endswith(('bn1', 'relu', 'activate', 'act')):
            assert values[-1].min() < 0, name


def synchronised(network: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def reverted(network: nn.Module) -> nn.Module:
    """As mmengine does in a run of one process, of a config for several."""
    return revert_sync_batchnorm(synchronised(network))


@pytest.mark.parametrize('replaced', [synchronised, reverted])
@pytest.mark.parametrize('kind', ['SingleTeacherDistill', 'FrozenTeacherDistill', 'SelfDistill'])
def test_modules_that_are_replaced(kind: str, replaced: Callable, batch: Callable) -> None:
    """mmengine's Runner replaces batch norms once the model is built."""
    model = algorithm_of(kind, InPlace(), {'norm': OUTPUT, 'norm_input': INPUT})
    first = model.architecture.norm
    model = replaced(model)
    assert model.architecture.norm is not first
    assert_recorded(model, *batch())
    assert not first._forward_hooks
    assert not first._forward_pre_hooks
    # and again, between two batches
    model.architecture.norm = nn.Identity()
    if kind != 'SelfDistill':
        model.teacher.norm = nn.Identity()
    assert_recorded(model, *batch())


def test_pairs_with_features_at_batch_norms() -> None:
    """Activation boundaries and OFD on wide ResNets, with synchronised batch norms."""
    ofd = Config.fromfile(CONFIGS / 'mixed' / 'icd-ofd_wrn40-2_wrn16-2_cifar100.py').model
    for cfg in (ofd, compose('wrn40-2_wrn16-2_cifar100', ['ab']).model):
        cfg.update(teacher_ckpt=None, random_teacher=True)
        model = synchronised(MODELS.build(cfg).train())
        if hasattr(model.distiller, 'set_stage'):
            model.distiller.set_stage('initial')
        samples = [DataSample().set_gt_label(i) for i in range(2)]
        losses = model(torch.randn(2, 3, 32, 32), samples, mode='loss')
        assert all(value.isfinite().all() for name, value in losses.items() if 'loss' in name)


@pytest.mark.slow
def test_a_replaced_module_in_a_compiled_graph(batch: Callable) -> None:
    model = algorithm_of('FrozenTeacherDistill', InPlace(), {'norm': OUTPUT})
    model.torch_compile = dict(backend='aot_eager')
    model = synchronised(model)
    model.distiller.distill_losses['loss_norm'] = MODELS.build(dict(type='mmrazor.L2Loss'))
    features = (('s_feature', True), ('t_feature', False))
    inputs = {name: dict(recorder='norm', from_student=student) for name, student in features}
    model.distiller.loss_forward_mappings = {'loss_norm': inputs}
    images, samples = batch()
    compiled = model(images, samples, mode='loss')['distill.loss_norm']
    assert model.torch_compile
    model.torch_compile = False
    torch.testing.assert_close(compiled, model(images, samples, mode='loss')['distill.loss_norm'])


def test_a_copy_of_an_algorithm_follows_its_own_modules(batch: Callable) -> None:
    model = algorithm_of('SingleTeacherDistill', InPlace(), {'norm': OUTPUT})
    other = synchronised(copy.deepcopy(model))
    assert_recorded(other, *batch())
    assert_recorded(model, *batch())
    hooked = next(recorders_of(other.distiller, 'student')).hooked
    assert hooked.network is other.architecture


def test_a_module_that_has_gone(batch: Callable) -> None:
    model = algorithm_of('SingleTeacherDistill', InPlace(), {'norm': OUTPUT})
    del model.architecture.norm
    with pytest.raises(AssertionError, match='"norm" is not in the model'):
        model(*batch(), mode='loss')
