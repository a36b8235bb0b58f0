# Known-item search among scikit-learn's 1,797 digits: queries are degraded views of them, one for each of 1,297 images
# to train on, one for each of the other 500 to validate on, always the same ones.
# Of 1,297 queries in batches of 64, the last batch has 17, and as many fewer negatives: nothing is dropped.
_base_ = ['./digits.py']
query = [
    dict(type='DegradedView', crop=0.8, shift=1, color=0.3, blur=1.0, noise=0.1),
    dict(type='PackInputs'),
]
arrays = dict(type='NPZDataset', data_file='work_dirs/demo/digits.npz')
train_part = dict(**arrays, images_key='train_images', labels_key='train_labels')
val_part = dict(**arrays, images_key='test_images', labels_key='test_labels')
pack = [dict(type='PackInputs')]
images = dict(type='ConcatDataset', datasets=[dict(**train_part, pipeline=pack), dict(**val_part, pipeline=pack)])
gallery = dict(
    batch_size=500,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='GalleryDataset', dataset=images),
)
train_dataloader = dict(
    dataset=dict(_delete_=True, type='QueryDataset', seed=1, gallery=images, dataset=dict(**train_part, pipeline=query))
)
val_dataloader = dict(
    dataset=dict(_delete_=True, type='QueryDataset', seed=0, gallery=images, dataset=dict(**val_part, pipeline=query))
)
val_evaluator = [
    dict(type='RetrievalRecall', topk=(1, 5, 20)),
    dict(type='MeanReciprocalRank', topk=10),
]
test_dataloader = val_dataloader
test_evaluator = val_evaluator
del arrays, query, pack, train_part, val_part, images
