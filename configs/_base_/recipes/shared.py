# What all recipes share: everything but the model, the distiller, the pipelines and data_root of the images.
_base_ = ['../runtimes/default.py']

# ImageNet's, as most pretrained teachers want them
data_preprocessor = dict(
    type='mmpretrain.ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
# folders with a subfolder for each class; data_root is left to the inheriting config
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='data/NAME/train'),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root='data/NAME/val'),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

# gradients are clipped, and neither biases, norms, embeddings of positions nor the learned temperature of ICD decay
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={name: dict(decay_mult=0.0) for name in ('cls_token', 'dist_token', 'pos_embed', 'log_tau')},
    ),
)
# the warm-up is a part of the training, so that train_cfg.max_epochs can be set alone
param_scheduler = dict(type='WarmupCosineLR', warmup=0.05, by_epoch=False)
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
# the average of the student over the last twentieth of the iterations so far, at most the last 5,000: it is what is
# validated, kept as the best and exported
default_hooks = dict(
    average=dict(type='mmengine.EMAHook', ema_type='MomentumAnnealingEMA', gamma=20, momentum=2e-4, update_buffers=True)
)
