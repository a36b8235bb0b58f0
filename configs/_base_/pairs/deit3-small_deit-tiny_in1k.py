# mmpretrain's training of DeiT-T: 4 processes of 256 images, 300 epochs; for others: --auto-scale-lr
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    '../runtimes/default.py',
]
for name in ('dataset_type', 'train_pipeline', 'test_pipeline', 'bgr_mean', 'bgr_std'):
    _base_.pop(name)
del name
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=5.0),
)
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py'),
    # the published weights of mmpretrain's model zoo, downloaded once
    teacher_ckpt='https://mmassets.onedl.ai/mmclassification/v0/deit3/deit3-small-p16_3rdparty_in1k_20221008-0f7c70cf.pth',
)
