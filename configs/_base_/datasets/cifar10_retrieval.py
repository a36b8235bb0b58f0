# Known-item search among 5,000 images of CIFAR-10: queries are degraded views of them, one for each of the first 2,500
# training images to train on, one for each of the first 2,500 test images to validate on, always the same ones.
# Of 2,500 queries in batches of 64, the last batch has 4, and as many fewer negatives: nothing is dropped.
_base_ = ['./cifar10_npz.py']
query = [
    dict(type='DegradedView', crop=0.6, shift=3, color=0.5, blur=1.5, noise=0.15),
    dict(type='PackInputs'),
]
arrays = dict(type='NPZDataset', data_file='data/cifar10.npz', indices=2_500)
train_part = dict(**arrays, images_key='x_train', labels_key='y_train')
val_part = dict(**arrays, images_key='x_test', labels_key='y_test')
pack = [dict(type='PackInputs')]
images = dict(type='ConcatDataset', datasets=[dict(**train_part, pipeline=pack), dict(**val_part, pipeline=pack)])
gallery = dict(
    batch_size=500,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='GalleryDataset', dataset=images),
)
train_dataloader = dict(
    num_workers=0,
    dataset=dict(
        _delete_=True, type='QueryDataset', seed=1, gallery=images, dataset=dict(**train_part, pipeline=query)
    ),
)
val_dataloader = dict(
    num_workers=0,
    dataset=dict(_delete_=True, type='QueryDataset', seed=0, gallery=images, dataset=dict(**val_part, pipeline=query)),
)
val_evaluator = [
    dict(type='RetrievalRecall', topk=(1, 5, 20)),
    dict(type='MeanReciprocalRank', topk=10),
]
test_dataloader = val_dataloader
test_evaluator = val_evaluator
del arrays, query, pack, train_part, val_part, images
