custom_imports = dict(imports=['icd_mmrazor'])
default_scope = 'mmpretrain'
# what each hook does: docs/reference/hooks.md; their order here does not matter
default_hooks = dict(
    # mmengine's, without a wait for the GPU in every iteration
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # the last epoch counts in the published protocol; the best one is kept as well
    checkpoint=dict(type='IntactCheckpointHook', interval=1, max_keep_ckpts=2, save_best='auto'),
    sanity_check=dict(type='SanityCheckHook'),
    exact_resume=dict(type='ExactResumeHook'),
    # training images that fit in memory are cropped and flipped a batch at a time, on the training device
    whole_batches=dict(type='InMemoryAugmentationHook'),
    # for the methods that need them: the memories of CRD and RRD; the initial stage of AB, FT and FSP, and weights that
    # change over time
    sample_memory=dict(type='SampleMemoryHook'),
    loss_schedule=dict(type='LossScheduleHook'),
    # for CES-KD: the difficulty of each training image
    difficulty=dict(type='DifficultyHook'),
    # a distillation's student as a plain classifier: student_last.pth, student_best.pth, student.py
    export_student=dict(type='ExportStudentHook'),
    distillation_report=dict(type='DistillationReportHook'),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # several processes: the seconds after which one that hangs ends the run
    dist_cfg=dict(backend='nccl', timeout=1800),
)
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
