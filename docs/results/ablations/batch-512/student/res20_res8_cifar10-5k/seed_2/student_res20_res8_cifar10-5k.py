auto_scale_lr = dict(base_batch_size=64, enable=False)
custom_imports = dict(imports=[
    'icd_mmrazor',
])
data_preprocessor = dict(
    mean=[
        125.307,
        122.961,
        113.8575,
    ],
    std=[
        62.985,
        62.0925,
        66.708,
    ],
    type='mmpretrain.ClsDataPreprocessor')
default_hooks = dict(
    check_batches=dict(type='CheckBatchesHook'),
    check_labels=dict(type='CheckLabelsHook'),
    check_numbers=dict(type='CheckNumbersHook'),
    check_resume=dict(changes='refuse', type='CheckResumeHook'),
    checkpoint=dict(
        interval=1, max_keep_ckpts=2, save_best='auto', type='CheckpointHook'),
    distillation_report=dict(
        evaluate_teacher=False, type='DistillationReportHook'),
    export_student=dict(type='ExportStudentHook'),
    initial_stage=dict(type='InitialStageHook'),
    logger=dict(interval=100, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    plain_checkpoint=dict(type='PlainCheckpointHook'),
    randomness=dict(type='RepeatableRandomnessHook'),
    resumed_validation=dict(type='ResumedValidationHook'),
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    sample_memory=dict(type='SampleMemoryHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    status=dict(type='StatusHook'),
    sync_buffers=dict(type='SyncSavedBuffersHook'),
    timer=dict(type='IterTimerHook'),
    whole_batches=dict(type='WholeBatchHook'))
default_scope = 'mmpretrain'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl', timeout=1800),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
launcher = 'none'
load_from = None
log_level = 'INFO'
model = dict(
    _scope_='mmpretrain',
    backbone=dict(depth=8, type='CIFARResNet'),
    head=dict(
        in_channels=64, init_cfg=None, num_classes=10, type='LinearClsHead'),
    neck=dict(type='GlobalAveragePooling'),
    type='ImageClassifier')
optim_wrapper = dict(
    optimizer=dict(
        fused=True, lr=0.4, momentum=0.9, type='SGD', weight_decay=0.0005))
param_scheduler = dict(
    by_epoch=True, gamma=0.1, milestones=[
        5,
        6,
        7,
    ], type='MultiStepLR')
randomness = dict(deterministic=False, seed=2)
resume = True
test_cfg = dict()
test_dataloader = dict(
    batch_size=256,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        data_file='data/cifar10.npz',
        images_key='x_test',
        labels_key='y_test',
        pipeline=[
            dict(type='PackInputs'),
        ],
        type='NPZDataset'),
    num_workers=2,
    persistent_workers=True,
    pin_memory=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    topk=(
        1,
        5,
    ), type='Accuracy')
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=8)
train_dataloader = dict(
    batch_size=512,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        data_file='data/cifar10.npz',
        images_key='x_train',
        indices=5000,
        labels_key='y_train',
        pipeline=[
            dict(crop_size=32, padding=4, type='RandomCrop'),
            dict(direction='horizontal', prob=0.5, type='RandomFlip'),
            dict(type='PackInputs'),
        ],
        type='NPZDataset'),
    num_workers=2,
    persistent_workers=True,
    pin_memory=False,
    sampler=dict(shuffle=True, type='DefaultSampler'))
val_cfg = dict()
val_dataloader = dict(
    batch_size=256,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        data_file='data/cifar10.npz',
        images_key='x_test',
        labels_key='y_test',
        pipeline=[
            dict(type='PackInputs'),
        ],
        type='NPZDataset'),
    num_workers=2,
    persistent_workers=True,
    pin_memory=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    topk=(
        1,
        5,
    ), type='Accuracy')
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[
        dict(type='LocalVisBackend'),
    ])
work_dir = '/work/evidence/tree/work_dirs/studies/ablations/batch-512/student/res20_res8_cifar10-5k/seed_2'
