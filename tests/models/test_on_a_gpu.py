"""Every method on a simulated GPU: a tensor of torch's FakeTensorMode has a device, a shape and a type, but no values.

This finds operations on tensors of two devices, and tensors that stay on the CPU. It does not run torch's backward pass
or any kernel: tests with the marker ``gpu`` do.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from helpers import methods_of_views, two_views
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from icd_mmrazor import recipes

# the answers of a GPU, where code of torch and mmengine asks for one
ANSWERS = {
    'torch.cuda.is_current_stream_capturing': False,
    'torch.cuda.is_bf16_supported': True,
    'torch.cuda.amp.common.amp_definitely_not_available': False,
    'mmengine.runner.amp.get_device': 'cuda',
    'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available': True,
}


@contextlib.contextmanager
def simulated_gpu() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, answer in ANSWERS.items():
            stack.enter_context(mock.patch(name, return_value=answer))
        # no values: the first batch compares weights with those that were taken from a teacher
        stack.enter_context(mock.patch('torch.equal', return_value=True))
        stack.enter_context(
            mock.patch('torch.amp.GradScaler._maybe_opt_step', lambda _, optimizer, __: optimizer.step())
        )
        stack.enter_context(mock.patch.object(Tensor, 'pin_memory', lambda tensor: tensor))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def built(cfg: Config, stage: str = 'main') -> nn.Module:
    """Build a distillation in a stage of its training, on the CPU."""
    model = MODELS.build(cfg.model).train()
    for module in model.modules():
        if hasattr(module, 'set_progress'):
            module.set_progress(epoch=0, iteration=0)
        if hasattr(module, 'set_stage'):
            module.set_stage(stage)
        if hasattr(module, 'set_dataset'):
            module.set_dataset(torch.arange(40) % 10)
    return model


def step(model: nn.Module, wrapper: OptimWrapper, views: int) -> None:
    samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % 10) for i in range(8)]
    samples = samples if views == 1 else two_views(samples)
    images = torch.randint(0, 256, (len(samples), 3, 16, 16), dtype=torch.uint8)

    def backward(_: Tensor) -> None:  # torch has none without a driver
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    with mock.patch.object(Tensor, 'backward', backward):
        model.train_step(dict(inputs=images, data_samples=samples), wrapper)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a real one')
@pytest.mark.parametrize(('stage', 'views'), [('initial', 1), ('main', 1), ('main', 2)])
def test_every_method_stays_on_its_device(stage: str, views: int) -> None:
    """All together that take as many views of an image, in the precision with the most casts."""
    methods = ['ab', 'fsp', 'ft'] if stage == 'initial' else methods_of_views(views)
    cfg = recipes.compose('res20_res8_digits', [name for name in methods if name != 'vitkd'])
    settings = dict(teacher_ckpt=None, random_teacher=True, data_preprocessor=cfg.data_preprocessor)
    cfg.model.update(**settings, teacher_precision='fp16')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    model = built(cfg, stage)
    with simulated_gpu():
        model.to('cuda')
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        step(model, wrapper, views)
        tensors = [*model.named_parameters(), *model.named_buffers(), *model.teacher.named_parameters('teacher')]
        assert {name: tensor.device.type for name, tensor in tensors if tensor.device.type != 'cuda'} == {}


SEVERAL = [dict(weight=2.0), dict(teacher_preprocessor=dict(mean=[9.0] * 3, std=[9.0] * 3, size=32))]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a real one')
@pytest.mark.parametrize(
    ('methods', 'settings', 'augments'),
    [
        (['mixkd'], {}, None),
        (['r2kd'], {}, None),
        (['kd'], {}, [dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)]),
        (['kd'], dict(teachers=SEVERAL, teacher_combination='confident'), None),
        (['icd', 'kd'], dict(teacher_offload='blocks', teacher_precision='bf16-true'), None),
        (['icd', 'kd'], dict(teacher_offload='networks'), None),
    ],
    ids=['mixkd', 'r2kd', 'mixed', 'several teachers', 'offloaded blocks', 'offloaded'],
)
def test_other_ways_to_train(methods: list[str], settings: dict, augments: list | None) -> None:
    cfg = recipes.compose('res20_res8_digits', methods)
    preprocessor = {**cfg.data_preprocessor, 'batch_augments': augments and dict(augments=augments)}
    cfg.model.update(teacher_ckpt=None, random_teacher=True, data_preprocessor=preprocessor, **settings)
    for member in cfg.model.get('teachers', ()):
        member.teacher = cfg.model.teacher
    if 'teachers' in cfg.model:
        del cfg.model['teacher']
    model = built(cfg)
    with simulated_gpu():
        model.to('cuda')
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        for _ in range(2):
            step(model, wrapper, views=1)
    # of a teacher whose parts wait on the CPU, the rest alone is on the GPU
    waiting = {
        id(p) for part in (model.teacher_offload.parts if model.teacher_offload else []) for p in part.parameters()
    }
    assert {p.device.type for p in model.teacher.parameters() if id(p) not in waiting} <= {'cuda'}
    assert {p.device.type for p in model.teacher.parameters() if id(p) in waiting} <= {'cpu'}
    assert {p.device.type for p in model.parameters()} == {'cuda'}


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a real one')
def test_a_tensor_of_the_cpu_is_found() -> None:
    with simulated_gpu():
        weights, images = torch.ones(3), torch.ones(3, device='cuda')
        with pytest.raises(RuntimeError, match='two devices'):
            weights + images
