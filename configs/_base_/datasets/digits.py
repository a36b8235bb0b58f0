# scikit-learn's digits at 16 x 16, gray, written by tools/dataset_converters/digits_to_npz.py
data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', mean=[78.0] * 3, std=[81.0] * 3)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='NPZDataset',
        data_file='work_dirs/demo/digits.npz',
        images_key='train_images',
        labels_key='train_labels',
        pipeline=[dict(type='RandomCrop', crop_size=16, padding=2), dict(type='PackInputs')],
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='NPZDataset',
        data_file='work_dirs/demo/digits.npz',
        images_key='test_images',
        labels_key='test_labels',
        pipeline=[dict(type='PackInputs')],
    ),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
