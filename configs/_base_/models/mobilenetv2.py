# MobileNetV2 of half width for 32 x 32 images; the classifier starts as mmpretrain's does, as published
mobilenetv2 = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='CIFARMobileNetV2', widen_factor=0.5),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=1280),
)
