"""FrozenTeacherDistill: the published trajectory, the frozen teacher, and what it refuses."""

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import DATA, TOOLS, TORCH_VERSION, exit_status
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.benchmark import compose, method_names
from icd_mmrazor.models.records import recorders_of
from icd_mmrazor.utils import CheckpointError, SettingError
from icd_mmrazor.utils.checkpoints import read_checkpoint

# one graph from the images to the losses, or an error
COMPILED = dict(backend='aot_eager', fullgraph=True)
one_graph = pytest.mark.skipif(
    TORCH_VERSION < (2, 14), reason='torch 2.1 does not trace recorders into one graph; no torch between was tried'
)


@pytest.fixture
def algorithm(network: Callable, teacher_file: Callable) -> Callable[..., nn.Module]:
    def build(**settings: Any) -> nn.Module:
        teacher = settings.pop('teacher', 'res20')
        defaults = dict(architecture=network('res8'), teacher=network(teacher), distiller=dict(type='ICDDistiller'))
        if 'teacher_ckpt' not in settings:
            settings['teacher_ckpt'] = teacher_file(teacher)
        return MODELS.build({'_scope_': 'mmrazor', 'type': 'FrozenTeacherDistill', **defaults, **settings})

    return build


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(fold_teacher_norms=False, channels_last=False),
        pytest.param(dict(torch_compile=COMPILED), marks=one_graph),
    ],
    ids=['defaults', 'plain', 'compiled'],
)
def test_published_trajectory(settings: dict, network: Callable, tmp_path: Path) -> None:
    """Five SGD steps equal those of the published implementation, in every recorded quantity."""
    files = {}
    for name in ('resnet8', 'wrn_16_1'):
        files[name] = tmp_path / f'{name}.pth'
        source = DATA / f'{name}_ckpt_epoch_240.pth'
        assert not exit_status(TOOLS / 'model_converters/repdistiller_to_mmpretrain.py', source, files[name])
    z = np.load(DATA / 'trajectory_icd.npz')
    torch.set_default_dtype(torch.float64)
    try:
        logits = dict(recorder='icd_logits')
        # its KD loss was recorded, not trained: a term without "loss" in its name is only logged
        kd = dict(kd=dict(preds_S=dict(**logits, from_student=True), preds_T=dict(**logits, from_student=False)))
        recorder = dict(icd_logits=dict(type='ModuleOutputs', source='head.fc'))
        with pytest.warns(UserWarning, match='statistical value'):
            model = MODELS.build(
                dict(
                    _scope_='mmrazor',
                    type='FrozenTeacherDistill',
                    architecture=network('res8', 100),
                    teacher=network('wrn16-1', 100),
                    teacher_ckpt=str(files['wrn_16_1']),
                    distiller=dict(
                        type='ICDDistiller',
                        student_recorders=recorder,
                        teacher_recorders=recorder,
                        distill_losses=dict(kd=dict(type='KLDivergence', tau=4.0)),
                        loss_forward_mappings=kd,
                    ),
                    **settings,
                )
            ).double()
        model.architecture.load_state_dict(read_checkpoint(files['resnet8'])['state_dict'])
        model.double()
        connectors = model.distiller.connectors
        for side in ('student', 'teacher'):
            linear = connectors[f'icd_{side}'].linear
            linear.weight.data.copy_(torch.from_numpy(z[f'init/embed_{side[0]}.weight']))
            linear.bias.data.copy_(torch.from_numpy(z[f'init/embed_{side[0]}.bias']))
        sgd = {name: float(z[name]) for name in ('lr', 'momentum', 'weight_decay')}
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), **sgd))
        model.train()
        for i, (x, y) in enumerate(zip(z['x'], z['y'], strict=True)):
            samples = [DataSample().set_gt_label(int(label)) for label in y]
            losses = model(torch.from_numpy(x).double(), samples, mode='loss')
            total, log = model.parse_losses(losses)
            got = {
                'total': total,
                'ce': log['student.loss'],
                'icd': log['distill.loss_icd'],
                'kd': log['distill.kd'],
            }
            for name, value in got.items():
                assert value.item() == pytest.approx(z[f'loss/{name}'][i], rel=1e-8), (i, name)
            wrapper.update_params(total)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.torch_compile == settings.get('torch_compile', False), 'it was given up'
    student, icd = model.architecture, model.distiller.distill_losses['loss_icd']
    finals = {
        'conv1.weight': student.backbone.conv1.weight,
        'bn1.running_mean': student.backbone.bn1.running_mean,
        'bn1.running_var': student.backbone.bn1.running_var,
        'fc.weight': student.head.fc.weight,
        'fc.bias': student.head.fc.bias,
        'embed_s.weight': connectors['icd_student'].linear.weight,
        'embed_t.weight': connectors['icd_teacher'].linear.weight,
        'log_tau': icd.log_tau,
        'bias': icd.bias,
    }
    assert {f'final/{name}' for name in finals} == {key for key in z.files if key.startswith('final/')}
    for name, tensor in finals.items():
        want = z[f'final/{name}']
        assert np.abs(tensor.detach().numpy() - want).max() <= 1e-8 * max(np.abs(want).max(), 1e-3), name


def test_teacher_is_seen_by_nothing_that_trains_or_saves(algorithm: Callable) -> None:
    model = algorithm()
    teacher = set(map(id, model.teacher.parameters())) | set(map(id, model.teacher.buffers()))
    walked = [*model.parameters(), *model.buffers()]
    assert teacher
    assert not teacher & set(map(id, walked))
    assert not [name for name in model.state_dict() if 'teacher.' in name and 'icd_teacher' not in name]
    assert not [name for name, module in model.named_modules() if module is model.teacher]


def test_teacher_is_frozen_in_eval_mode(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    model.teacher.dropout = nn.Dropout(0.5)
    assert model.train() is model
    assert model.training
    assert model.architecture.training
    assert not any(module.training for module in model.teacher.modules())
    before = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    losses = model(*batch(), mode='loss')
    total, _ = model.parse_losses(losses)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper.update_params(total)
    for name, tensor in model.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_teacher_computes_no_loss(algorithm: Callable, batch: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = algorithm()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('the teacher computed a loss')

    monkeypatch.setattr(model.teacher.head, 'loss', refuse)
    assert 'distill.loss_icd' in model(*batch(), mode='loss')


def test_teacher_follows_casts_and_moves(algorithm: Callable, batch: Callable) -> None:
    model = algorithm().double()
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    images, samples = batch()
    assert model(images.double(), samples, mode='loss')['distill.loss_icd'].dtype == torch.float64
    model.to('meta')
    assert {p.device.type for p in model.teacher.parameters()} == {'meta'}


def test_student_alone_predicts(algorithm: Callable, batch: Callable) -> None:
    model = algorithm().eval()
    images, samples = batch()
    predictions = model(images, samples, mode='predict')
    want = model.architecture(images).argmax(1)
    assert [p.pred_label.item() for p in predictions] == want.tolist()


def test_features_are_the_inputs_of_the_classifiers(algorithm: Callable, batch: Callable) -> None:
    model = algorithm().eval()
    images, samples = batch()
    with torch.no_grad():
        losses = model(images, samples, mode='loss')
        connectors, icd = model.distiller.connectors, model.distiller.distill_losses['loss_icd']
        s, t = (network.extract_feat(images)[-1] for network in (model.architecture, model.teacher))
        want = icd(connectors['icd_student'](s), connectors['icd_teacher'](t))
    assert losses['distill.loss_icd'].item() == pytest.approx(want.item(), rel=1e-6)


def test_stopped_distillation_leaves_the_teacher_alone(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    model.distillation_stopped = True
    model.teacher.forward = None
    assert set(model(*batch(), mode='loss')) == {'student.loss'}


def test_student_loss_can_be_left_out(algorithm: Callable, batch: Callable) -> None:
    losses = algorithm(calculate_student_loss=False)(*batch(), mode='loss')
    assert 'student.loss' not in losses
    assert losses['distill.loss_icd'].requires_grad


def test_a_distilled_student_can_teach(algorithm: Callable, network: Callable, tmp_path: Path) -> None:
    first = algorithm()
    file = tmp_path / 'distillation.pth'
    # mmrazor's own checkpoints have the teacher inside
    inside = {f'teacher.{name}': tensor for name, tensor in first.teacher.state_dict().items()}
    torch.save({'state_dict': {**first.state_dict(), **inside}}, file)
    second = algorithm(teacher='res8', teacher_ckpt=str(file))
    for name, tensor in second.teacher.state_dict().items():
        assert torch.equal(tensor, first.architecture.state_dict()[name]), name


def test_refuses_a_missing_checkpoint(algorithm: Callable, tmp_path: Path) -> None:
    for nothing in (None, ''):
        with pytest.raises(SettingError, match=r'teacher_ckpt=.*repdistiller_to_mmpretrain'):
            algorithm(teacher_ckpt=nothing)
    with pytest.raises(CheckpointError, match=r'absent\.pth: there is no such file'):
        algorithm(teacher_ckpt=str(tmp_path / 'absent.pth'))


def test_refuses_a_checkpoint_of_another_network(algorithm: Callable, teacher_file: Callable) -> None:
    with pytest.raises(CheckpointError, match=r'(?s)other shapes: backbone.conv1.weight.*\(32, 3, 3, 3\).*more\)'):
        algorithm(teacher_ckpt=teacher_file('res32x4'))
    with pytest.raises(CheckpointError, match=r'(?s)only in the file: backbone\.layer1\.3\.'):
        algorithm(teacher_ckpt=teacher_file('res32'))


def test_refuses_other_numbers_of_classes(algorithm: Callable, network: Callable, teacher_file: Callable) -> None:
    with pytest.raises(CheckpointError, match='trained on 100 classes, the config says 10'):
        algorithm(teacher_ckpt=teacher_file('res20', 100))
    with pytest.raises(SettingError, match='the teacher has 10 classes, the student 100'):
        algorithm(architecture=network('res8', 100))


def test_never_unpickles(algorithm: Callable, tmp_path: Path) -> None:
    trace = tmp_path / 'trace'

    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (trace,)

    plain = tmp_path / 'plain.pkl'
    plain.write_bytes(pickle.dumps({'state_dict': Hostile()}))
    zipped = tmp_path / 'zipped.pth'
    torch.save({'state_dict': Hostile()}, zipped)
    for file in (plain, zipped):
        with pytest.raises(CheckpointError, match='not a plain weights file'):
            algorithm(teacher_ckpt=str(file))
    assert not trace.exists()


@pytest.mark.parametrize('setting', [{'teacher_trainable': True}, {'teacher_norm_eval': False}], ids=str)
def test_refuses_a_trained_teacher(setting: dict[str, bool], algorithm: Callable) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(SettingError, match=f'{name}={value}, but its teacher is frozen'):
        algorithm(**setting)
    assert algorithm(**{name: not value}).teacher is not None


def test_networks_without_a_scope_are_mmpretrains(
    algorithm: Callable, network: Callable, teacher_file: Callable, batch: Callable
) -> None:
    """As an ordinary config of mmpretrain writes them, its data_preprocessor without a type too."""
    plain = {name: network(name) for name in ('res8', 'res20')}
    for cfg in plain.values():
        del cfg['_scope_']
    model = algorithm(
        architecture=plain['res8'],
        teacher='res20',
        teacher_ckpt=teacher_file('res20'),
        data_preprocessor=dict(mean=[1.0] * 3, std=[2.0] * 3),
    )
    assert type(model.data_preprocessor).__name__ == 'ClsDataPreprocessor'
    assert 'distill.loss_icd' in model(*batch(), mode='loss')


def test_ofd_works_without_an_algorithm_of_its_own(algorithm: Callable, batch: Callable) -> None:
    recorders = dict(bn=dict(type='ModuleOutputs', source='backbone.layer3.0.bn1'))
    distiller = dict(
        type='OFDDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        connectors=dict(teacher=dict(type='OFDTeacherConnector')),
        distill_losses=dict(loss_ofd=dict(type='OFDLoss')),
        loss_forward_mappings=dict(
            loss_ofd=dict(
                s_feature=dict(recorder='bn', from_student=True),
                t_feature=dict(recorder='bn', from_student=False, connector='teacher'),
            )
        ),
    )
    losses = algorithm(distiller=distiller)(*batch(), mode='loss')
    assert losses['distill.loss_ofd'].item() > 0


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_losses_see_plain_features(precision: str, algorithm: Callable, batch: Callable) -> None:
    """Float32 in the usual layout, whatever the networks compute with; and nothing stays recorded."""
    recorder = dict(map=dict(type='ModuleOutputs', source='backbone.layer1'))
    mapping = dict(
        t_feature=dict(recorder='map', from_student=False), s_feature=dict(recorder='map', from_student=True)
    )
    model = algorithm(
        teacher_precision=precision,
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=recorder,
            teacher_recorders=recorder,
            distill_losses=dict(loss_it=dict(type='L2Loss')),
            loss_forward_mappings=dict(loss_it=mapping),
        ),
    )
    seen = []

    def keep(s_feature: torch.Tensor, t_feature: torch.Tensor) -> torch.Tensor:
        seen.extend((t_feature, s_feature))
        return s_feature.view(-1).sum() + t_feature.view(-1).sum()

    model.distiller.distill_losses['loss_it'].forward = keep
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
        model.loss(*batch())
    assert all(feature.dtype == torch.float32 and feature.is_contiguous() for feature in seen)
    assert seen[1].requires_grad
    assert not seen[0].requires_grad
    for network in ('student', 'teacher'):
        assert [recorder.data_buffer for recorder in recorders_of(model.distiller, network)] == [[]]


def test_the_teacher_keeps_its_precision_under_the_students_autocast(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    dtypes = []
    model.teacher.head.fc.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    model.student.head.fc.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    with torch.autocast('cpu', torch.bfloat16):
        model.loss(*batch())
    assert dtypes == [torch.float32, torch.bfloat16]


def test_moving_the_model_moves_what_the_teacher_computes_with(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    images, samples = batch()
    model.loss(images, samples)
    losses = model.double().loss(images.double(), samples)
    assert losses['distill.loss_icd'].dtype == torch.float64


def test_a_compiler_that_fails_is_said_and_done_without(
    algorithm: Callable, teacher_file: Callable, batch: Callable
) -> None:
    def backend(*_: Any) -> None:
        raise RuntimeError('no C++ compiler on this machine')

    # in float64, where the order of sums does not show
    file = teacher_file('res20')
    model = algorithm(teacher_ckpt=file, torch_compile=dict(backend=backend)).double()
    plain = algorithm(teacher_ckpt=file).double()
    plain.load_state_dict(model.state_dict())
    images, samples = batch()
    want = plain.loss(images.double(), samples)
    with mock.patch('icd_mmrazor.models.algorithms.frozen_teacher_distill.print_log') as print_log:
        got = [model.loss(images.double(), samples) for _ in range(2)]
    torch.testing.assert_close(got[0], want)
    (message,) = (call.args[0] for call in print_log.call_args_list)
    assert re.search('torch_compile=.* goes on without it.*no C[+][+] compiler on this machine', message)
    assert model.torch_compile is False


def test_errors_that_are_not_the_compilers_are_raised(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(torch_compile=COMPILED)
    images, samples = batch()
    model._compiled_losses = lambda self, *_: self.architecture(images[:, :1], mode='tensor')
    with pytest.raises(RuntimeError, match='channels'):
        model.loss(images, samples)
    assert model.torch_compile == COMPILED


@pytest.mark.parametrize('options', ['max-autotune', dict(mod='max-autotune')])
def test_options_that_the_compiler_has_not_are_refused(options: object, algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=r'torch_compile=.*max-autotune.* must be True, False or options.*mode'):
        algorithm(torch_compile=options)


@one_graph
def test_every_method_but_one_is_one_graph() -> None:
    """All at once, in both stages; CRD looks up its memories between two graphs."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    methods = set(method_names()) - {'crd', 'student'}
    cfg = compose('res56_res20_cifar100', sorted(methods))
    cfg.model.update(teacher_ckpt=None, random_teacher=True, torch_compile=dict(backend=backend, fullgraph=True))
    model = MODELS.build(cfg.model).train()
    stages = {'initial': {'ab', 'fsp', 'ft'}, 'main': methods - {'ab', 'fsp'}}
    for number, (stage, at_work) in enumerate(stages.items(), start=1):
        model.distiller.set_stage(stage)
        for _ in range(2):
            losses = model.loss(torch.randn(4, 3, 32, 32), [DataSample().set_gt_label(torch.arange(4))])
            assert len(graphs) == number
        assert {name.split('.')[1] for name in losses if name.startswith('distill.')} == at_work
    assert model.torch_compile


def test_a_copy_of_the_model_records_for_itself(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(torch_compile=COMPILED)
    images, samples = batch()
    before = model.loss(images, samples)
    other = copy.deepcopy(model)
    nn.init.zeros_(other.teacher.head.fc.weight)
    nn.init.constant_(other.distiller.connectors['icd_teacher'].linear.weight, 0.5)
    changed = other.loss(images, samples)
    assert changed['distill.loss_icd'] != before['distill.loss_icd']
    torch.testing.assert_close(model.loss(images, samples)['distill.loss_icd'], before['distill.loss_icd'])
