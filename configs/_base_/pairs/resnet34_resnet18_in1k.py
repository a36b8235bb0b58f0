_base_ = ['../datasets/imagenet.py', '../schedules/imagenet_100e.py', '../runtimes/default.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'),
    # the published weights of mmpretrain's model zoo, downloaded once
    teacher_ckpt='https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth',
)
