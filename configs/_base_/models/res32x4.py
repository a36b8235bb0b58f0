# ResNet-32x4 for 32 x 32 images; init_cfg=None: torch's own initialisation of the classifier, as published
res32x4 = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=32, stem_channels=32, base_channels=64),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=256, init_cfg=None),
)
