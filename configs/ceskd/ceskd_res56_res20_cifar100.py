_base_ = ['../_base_/pairs/res56_res20_cifar100.py', '../_base_/methods/ceskd.py']
model = dict(
    type='ExpertSelectionDistill',
    teacher=None,
    teacher_ckpt=None,
    teachers=[
        dict(
            teacher=dict(
                _scope_='mmpretrain',
                type='ImageClassifier',
                backbone=dict(type='CIFARResNet', depth=32),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=100, in_channels=64, init_cfg=None),
            ),
            teacher_ckpt='work_dirs/assistants/res56-res44-res32_cifar100.pth',
        ),
        dict(
            teacher=dict(
                _scope_='mmpretrain',
                type='ImageClassifier',
                backbone=dict(type='CIFARResNet', depth=44),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=100, in_channels=64, init_cfg=None),
            ),
            teacher_ckpt='work_dirs/assistants/res56-res44_cifar100.pth',
        ),
        dict(
            teacher=dict(
                _scope_='mmpretrain',
                type='ImageClassifier',
                backbone=dict(type='CIFARResNet', depth=56),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=100, in_channels=64, init_cfg=None),
            ),
            teacher_ckpt='work_dirs/res56_cifar100/epoch_240.pth',
        ),
    ],
    distiller=_base_.pop('ceskd'),
)
# settings for other pairs, or for use with other methods
_base_.pop('ceskd_beside')
_base_.pop('ceskd_assistants')
_base_.pop('ceskd_settings')
