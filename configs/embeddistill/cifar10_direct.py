# the student alone: it is trained by its queries and their documents, and searches in its own gallery
_base_ = [
    '../_base_/retrieval/student.py',
    '../_base_/datasets/cifar10_retrieval.py',
    '../_base_/retrieval/runtime.py',
    '../_base_/schedules/retrieval_40e.py',
]
model = dict(
    image_encoder=[
        dict(type='CIFARResNet', depth=8, stem_channels=8, base_channels=8),
        dict(type='GlobalAveragePooling'),
        dict(type='LinearNeck', in_channels=32, out_channels=128, norm_cfg=None),
    ],
    prototype=_base_.pop('gallery'),
)
train_dataloader = dict(dataset=dict(with_documents=True))
