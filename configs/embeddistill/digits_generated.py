# + generated queries: new views of all images of the gallery in each epoch, on which only the matching counts;
# also of the images that the validation searches for, by other views
_base_ = ['./digits_matching.py']
images = _base_.model.architecture.prototype.dataset.dataset
pipeline = _base_.train_dataloader.dataset.dataset.pipeline
train_dataloader = dict(
    batch_size=128,
    batch_sampler=dict(type='PartlyLabeledBatchSampler', unlabeled=64),
    dataset=dict(
        _delete_=True,
        type='PartlyLabeledDataset',
        labeled=_base_.train_dataloader.dataset,
        unlabeled=dict(
            type='ConcatDataset',
            datasets=[dict(part, pipeline=pipeline) for part in images.datasets],
        ),
    ),
)
del images, pipeline
