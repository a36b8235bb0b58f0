_base_ = ['../datasets/imagenet.py', '../schedules/imagenet_100e.py', '../runtimes/default.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py'),
    # the published weights of mmpretrain's model zoo, downloaded once
    teacher_ckpt='https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth',
)
