# CNN-1, the student of HKD, for 32 x 32 images; init_cfg=None: torch's own initialisation, as published
cnn1 = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='CIFARConvNet', width=8),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, init_cfg=None),
)
