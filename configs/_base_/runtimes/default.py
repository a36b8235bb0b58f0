custom_imports = dict(imports=['icd_mmrazor'])
default_scope = 'mmpretrain'
default_hooks = dict(
    # mmengine's, without a wait for the GPU in every iteration
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # the last epoch counts in the published protocol; the best one is kept beside it
    checkpoint=dict(type='IntactCheckpointHook', interval=1, max_keep_ckpts=2, save_best='auto'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # random numbers and data order follow from seed, rank and iteration: a resumed run ends as one that was not stopped
    randomness=dict(type='RepeatableRandomnessHook'),
    # several processes: what is validated and saved has the mean of their batch norm statistics
    sync_buffers=dict(type='SyncSavedBuffersHook'),
    # those methods that need it: the memories of CRD, the initial stage of AB, FT and FSP
    sample_memory=dict(type='SampleMemoryHook'),
    initial_stage=dict(type='InitialStageHook'),
    # what is watched (save_best, a plateau, early stopping) must be a metric of the validation
    check_metrics=dict(type='CheckMetricsHook'),
    # what hooks remember is in the checkpoint: early stopping counts on after a resume
    hook_states=dict(type='HookStateHook'),
    # training images that fit in memory are cropped and flipped a batch at a time, on the training device
    whole_batches=dict(type='WholeBatchHook'),
    check_labels=dict(type='CheckLabelsHook'),
    # batches of one image, processes with different numbers of batches
    check_batches=dict(type='CheckBatchesHook'),
    # images prepared otherwise than for the teacher: RGB and BGR
    check_preparation=dict(type='CheckPreparationHook'),
    check_numbers=dict(type='CheckNumbersHook'),
    # a run is resumed with the settings it was begun with, or says what has changed (tools/train.py --resume-changes)
    check_resume=dict(type='CheckResumeHook', changes='refuse'),
    # the weights that a run starts with fill the network and are of the same classes
    check_weights=dict(type='CheckWeightsHook'),
    plain_checkpoint=dict(type='PlainCheckpointHook'),
    # a distillation's student as a plain classifier: student_last.pth, student_best.pth, student.py
    export_student=dict(type='ExportStudentHook'),
    distillation_report=dict(type='DistillationReportHook'),
    # a line after each validation, a summary at the end; stays last of those that do something at the end
    status=dict(type='StatusHook'),
    # a run that was killed while it validated begins with that when it is resumed, after all hooks have made ready
    resumed_validation=dict(type='ResumedValidationHook'),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # several processes: seconds after which one that hangs ends the run
    dist_cfg=dict(backend='nccl', timeout=1800),
)
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
