# ResNet-18 of pre-activation blocks, the teacher of HKD; init_cfg=None: torch's own initialisation, as published
preact18 = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='CIFARPreActResNet'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512, init_cfg=None),
)
