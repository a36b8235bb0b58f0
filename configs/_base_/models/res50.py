# ResNet-50 for 32 x 32 images; init_cfg=None: torch's own initialisation of the classifier, as published
res50 = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=50, zero_init_residual=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=2048, init_cfg=None),
)
