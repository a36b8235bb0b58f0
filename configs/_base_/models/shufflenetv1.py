# ShuffleNetV1 for 32 x 32 images; init_cfg=None: torch's own initialisation of the classifier, as published
shufflenetv1 = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='CIFARShuffleNetV1', groups=3),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=960, init_cfg=None),
)
