# the teacher: a larger network, with a new view of each image in every epoch
_base_ = [
    '../_base_/retrieval/teacher.py',
    '../_base_/datasets/cifar10_retrieval.py',
    '../_base_/retrieval/runtime.py',
    '../_base_/schedules/retrieval_40e.py',
]
model = dict(
    image_encoder=[
        dict(type='CIFARResNet', depth=14),
        dict(type='GlobalAveragePooling'),
        dict(type='LinearNeck', in_channels=64, out_channels=128, norm_cfg=None),
    ],
    prototype=_base_.pop('gallery'),
)
train_dataloader = dict(dataset=dict(with_documents=True, seed=None))
# ten epochs: with new views in each, that is enough to be above the students
param_scheduler = dict(T_max=10)
train_cfg = dict(max_epochs=10, val_interval=5)
