# the student alone: it is trained by its queries and their documents, and searches in its own gallery
_base_ = [
    '../_base_/retrieval/student.py',
    '../_base_/datasets/digits_retrieval.py',
    '../_base_/retrieval/runtime.py',
    '../_base_/schedules/retrieval_40e.py',
]
model = dict(prototype=_base_.pop('gallery'))
train_dataloader = dict(dataset=dict(with_documents=True))
