# + the teacher's gallery: the student embeds queries alone
_base_ = ['./cifar10_score.py']
model = dict(
    calculate_student_loss=False,
    architecture=dict(head=None),
    distiller=dict(losses=dict(scores=dict(loss=dict(one_hot_weight=1.0)))),
)
train_dataloader = dict(dataset=dict(with_documents=False))
custom_hooks = [dict(type='TeacherGalleryHook')]
