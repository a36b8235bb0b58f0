# the teacher: a larger network, with a new view of each image in every epoch
_base_ = [
    '../_base_/retrieval/teacher.py',
    '../_base_/datasets/digits_retrieval.py',
    '../_base_/retrieval/runtime.py',
    '../_base_/schedules/retrieval_40e.py',
]
model = dict(prototype=_base_.pop('gallery'))
train_dataloader = dict(dataset=dict(with_documents=True, seed=None))
