# CNN-1-A, the auxiliary teacher of HKD: CNN-1 with twice the width
cnn1_a = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='CIFARConvNet', width=16),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=128, init_cfg=None),
)
