# More losses inside an ICDDistiller: attention transfer on the output of each stage, in addition to ICD and KD.
_base_ = ['../icd/icd-kd_wrn40-2_wrn16-2_cifar100.py']
model = dict(
    distiller=dict(
        student_recorders={f'stage{i}': dict(type='ModuleOutputs', source=f'backbone.layer{i}') for i in (1, 2, 3)},
        teacher_recorders={f'stage{i}': dict(type='ModuleOutputs', source=f'backbone.layer{i}') for i in (1, 2, 3)},
        distill_losses={f'loss_at{i}': dict(type='ATLoss', loss_weight=1000.0) for i in (1, 2, 3)},
        loss_forward_mappings={
            f'loss_at{i}': dict(
                s_feature=dict(recorder=f'stage{i}', from_student=True),
                t_feature=dict(recorder=f'stage{i}', from_student=False),
            )
            for i in (1, 2, 3)
        },
    )
)
