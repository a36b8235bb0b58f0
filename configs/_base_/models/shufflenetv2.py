# ShuffleNetV2 for 32 x 32 images; init_cfg=None: torch's own initialisation of the classifier, as published
shufflenetv2 = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='CIFARShuffleNetV2', widen_factor=1.0),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=1024, init_cfg=None),
)
