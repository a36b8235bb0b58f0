# ICD together with mmrazor's RKD losses in mmrazor's own ConfigurableDistiller: everything is written out.
_base_ = ['../icd/icd_wrn40-2_wrn16-2_cifar100.py']
model = dict(
    distiller=dict(
        _delete_=True,
        type='ConfigurableDistiller',
        student_recorders=dict(feature=dict(type='ModuleInputs', source='head.fc')),
        teacher_recorders=dict(feature=dict(type='ModuleInputs', source='head.fc')),
        connectors=dict(
            student=dict(type='LinearProjection', in_features=128),
            teacher=dict(type='LinearProjection', in_features=128),
        ),
        distill_losses=dict(
            loss_icd=dict(type='ICDLoss'),
            loss_distance=dict(type='DistanceWiseRKD', loss_weight=25.0),
            loss_angle=dict(type='AngleWiseRKD', loss_weight=50.0),
        ),
        loss_forward_mappings=dict(
            loss_icd=dict(
                s_feature=dict(recorder='feature', from_student=True, data_idx=0, connector='student'),
                t_feature=dict(recorder='feature', from_student=False, data_idx=0, connector='teacher'),
            ),
            loss_distance=dict(
                preds_S=dict(recorder='feature', from_student=True, data_idx=0),
                preds_T=dict(recorder='feature', from_student=False, data_idx=0),
            ),
            loss_angle=dict(
                preds_S=dict(recorder='feature', from_student=True, data_idx=0),
                preds_T=dict(recorder='feature', from_student=False, data_idx=0),
            ),
        ),
    )
)
