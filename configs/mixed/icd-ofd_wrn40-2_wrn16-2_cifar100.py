# Two distillers side by side: ICD, and mmrazor's OFD (overhaul of feature distillation) as in its own config.
_base_ = ['../icd/icd_wrn40-2_wrn16-2_cifar100.py']
model = dict(
    distiller=dict(
        _delete_=True,
        type='MixedDistiller',
        distillers=dict(
            icd=dict(type='ICDDistiller'),
            ofd=dict(
                type='OFDDistiller',
                student_recorders=dict(
                    bn1=dict(type='ModuleOutputs', source='backbone.layer2.0.bn1'),
                    bn2=dict(type='ModuleOutputs', source='backbone.layer3.0.bn1'),
                    bn3=dict(type='ModuleOutputs', source='backbone.bn1'),
                ),
                teacher_recorders=dict(
                    bn1=dict(type='ModuleOutputs', source='backbone.layer2.0.bn1'),
                    bn2=dict(type='ModuleOutputs', source='backbone.layer3.0.bn1'),
                    bn3=dict(type='ModuleOutputs', source='backbone.bn1'),
                ),
                connectors=dict(
                    student1=dict(
                        type='ConvModuleConnector',
                        in_channel=32,
                        out_channel=32,
                        norm_cfg=dict(type='BN'),
                        act_cfg=None,
                    ),
                    student2=dict(
                        type='ConvModuleConnector',
                        in_channel=64,
                        out_channel=64,
                        norm_cfg=dict(type='BN'),
                        act_cfg=None,
                    ),
                    student3=dict(
                        type='ConvModuleConnector',
                        in_channel=128,
                        out_channel=128,
                        norm_cfg=dict(type='BN'),
                        act_cfg=None,
                    ),
                    teacher1=dict(type='OFDTeacherConnector'),
                    teacher2=dict(type='OFDTeacherConnector'),
                    teacher3=dict(type='OFDTeacherConnector'),
                ),
                distill_losses=dict(
                    loss_1=dict(type='OFDLoss', loss_weight=0.25),
                    loss_2=dict(type='OFDLoss', loss_weight=0.5),
                    loss_3=dict(type='OFDLoss', loss_weight=1.0),
                ),
                loss_forward_mappings={
                    f'loss_{i}': dict(
                        s_feature=dict(recorder=f'bn{i}', from_student=True, connector=f'student{i}'),
                        t_feature=dict(recorder=f'bn{i}', from_student=False, connector=f'teacher{i}'),
                    )
                    for i in (1, 2, 3)
                },
            ),
        ),
    )
)
