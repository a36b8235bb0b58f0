"""A network that mmrazor has pruned is a student, a teacher and an exported network like any other."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from helpers import SUBNET, whole_network
from mmengine.config import Config, ConfigDict
from mmrazor.registry import MODELS

from icd_mmrazor.configuration.changes import config_changes
from icd_mmrazor.configuration.stored import config_of, read_config_text
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.network import build_network
from icd_mmrazor.export.student import plain_student, student_checkpoint
from icd_mmrazor.models.networks.resolve import name_networks_in_full, network_config

# 8 of 16 channels between the two convolutions of the first block: 4 x 8 x 9 weights twice, and 4 of a batch norm
REMOVED = 2 * 4 * 8 * 9 + 2 * 4


def pruned(**settings: object) -> dict:
    return dict(type='sub_model', cfg=whole_network(), mode='mutator', **settings)


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.fixture
def distillation(demo_config: Callable, tmp_path: Path) -> Config:
    """Return the config of a distillation whose student is named by the files of its subnet."""
    (tmp_path / 'subnet.json').write_text(json.dumps(SUBNET))
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'pruned.pth'))
    cfg = demo_config()
    cfg.model.architecture = pruned(fix_subnet=str(tmp_path / 'subnet.json'), init_cfg=init_cfg)
    network = network_config(pruned(fix_subnet=SUBNET), 'model')
    model = MODELS.build({'_scope_': 'mmrazor', **network})
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'pruned.pth')
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('prefix', ['', 'mmrazor.'])
def test_its_subnet_is_kept_with_the_run_and_rebuilt(
    prefix: str, distillation: Config, runner: Callable, tmp_path: Path
) -> None:
    distillation.model.architecture.type = f'{prefix}sub_model'
    begun = distillation.to_dict()
    name_networks_in_full(distillation.model)
    run = runner(distillation)
    run.train()
    assert (
        parameters(run.model.student)
        == parameters(MODELS.build({'_scope_': 'mmpretrain', **whole_network()})) - REMOVED
    )
    # nothing of the files is needed any more
    for file in ('subnet.json', 'pruned.pth'):
        (tmp_path / file).unlink()
    checkpoint = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=True)
    plain = plain_student(config_of(checkpoint, 'epoch_1.pth'))
    assert plain.pretty_text == (tmp_path / 'work' / 'student.py').read_text()
    student = student_checkpoint(checkpoint, plain, 'epoch_1.pth')
    model = build_network('the student', plain.model)
    model.load_state_dict(student['state_dict'], strict=True)
    # it sees the images as in the run
    assert torch.equal(model.data_preprocessor.mean, run.model.data_preprocessor.mean)
    assert parameters(model) == parameters(run.model.student)
    # what was begun by version 0.1 named the file
    assert config_changes(begun, distillation.to_dict()) == []


def test_every_form_of_a_subnet(tmp_path: Path) -> None:
    (tmp_path / 'subnet.yaml').write_text(yaml.safe_dump(SUBNET))
    apart = copy.deepcopy(SUBNET)
    (tmp_path / 'units.json').write_text(json.dumps(apart['channel_unit_cfg'].pop('units')))
    apart['channel_unit_cfg']['units'] = str(tmp_path / 'units.json')
    unnamed = copy.deepcopy(SUBNET)
    for unit in unnamed['channel_unit_cfg']['units'].values():
        del unit['channels']
    for subnet in (copy.deepcopy(SUBNET), str(tmp_path / 'subnet.yaml'), apart):
        network = network_config(pruned(fix_subnet=subnet), 'model.teacher')
        before = network.to_dict()
        assert network.fix_subnet.channel_unit_cfg == SUBNET['channel_unit_cfg']
        # mmrazor need not trace what the units say
        assert network.fix_subnet.parse_cfg == dict(type='Config')
        model = MODELS.build({'_scope_': 'mmrazor', **copy.deepcopy(network)})
        assert model.backbone.layer1[0].conv1.out_channels == 4
        assert network_config(network, 'model.teacher').to_dict() == before
    assert network_config(pruned(fix_subnet=unnamed), 'model').fix_subnet.parse_cfg == SUBNET['parse_cfg']
    # the whole network in mmrazor's way
    by_name = {**pruned(fix_subnet=SUBNET), 'cfg': dict(cfg_path='mmpretrain::resnet/resnet18_8xb16_cifar10.py')}
    assert network_config(by_name, 'model').cfg.backbone.type == 'ResNet_CIFAR'


def test_a_subnet_of_group_fisher() -> None:
    trace = dict(type='ChannelAnalyzer', demo_input=(1, 3, 16, 16), tracer_type='FxTracer')
    kept = dict.fromkeys(SUBNET['channel_unit_cfg']['units'], 4)
    architecture = dict(
        type='GroupFisherDeploySubModel', architecture=whole_network(), fix_subnet=kept, parse_cfg=trace
    )
    model = dict(_scope_='mmrazor', type='FrozenTeacherDistill', architecture=architecture)
    cfg = Config(dict(model=model, data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6])))
    plain = plain_student(config_of({'meta': {'cfg': cfg.pretty_text}}, 'x.pth'))
    assert plain.model._scope_ == 'mmrazor'
    assert plain.custom_imports == dict(imports=['icd_mmrazor'])
    assert plain_student(plain).to_dict() == plain.to_dict()
    network = build_network('it', plain.model)
    assert network.backbone.layer1[0].conv1.out_channels == 4
    assert network.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ('subnet', 'message'),
    [
        (
            'none.json',
            r"model\.architecture\.fix_subnet='none\.json'.*FileNotFoundError",
        ),
        ('{folder}/code.yaml', r'fix_subnet=.*code\.yaml'),
        ('{folder}/list.json', r'fix_subnet=\[1\]'),
        (None, 'fix_subnet=None'),
    ],
)
def test_bad_files(subnet: str | None, message: str, tmp_path: Path) -> None:
    (tmp_path / 'code.yaml').write_text('!!python/object/apply:os.system ["touch ' + str(tmp_path / 'ran') + '"]')
    (tmp_path / 'list.json').write_text('[1]')
    named = subnet and subnet.format(folder=tmp_path)
    with pytest.raises(SettingError, match=message):
        network_config(ConfigDict(pruned(fix_subnet=named)), 'model.architecture')
    assert not (tmp_path / 'ran').exists()


def test_a_stored_subnet_is_read_as_data() -> None:
    text = Config(dict(model=dict(architecture=pruned(fix_subnet=SUBNET)))).pretty_text
    assert read_config_text(text, 'it').model.architecture.fix_subnet == SUBNET
    for file, allowed in (('a/subnet.yaml', True), ('https://x/subnet.yaml', False), ('s3://x/y.pkl', False)):
        text = f"model = dict(type='sub_model', fix_subnet='{file}')"
        if allowed:
            read_config_text(text, 'it')
        else:
            with pytest.raises(SettingError, match='it'):
                read_config_text(text, 'it')
