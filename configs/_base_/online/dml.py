# Deep mutual learning (arXiv 1706.00384): two networks learn together, each from labels and from the other.
# A config completes it with two networks, architecture and teacher; the latter is the peer of the former.
dml = dict(
    _scope_='mmrazor',
    type='SingleTeacherDistill',
    teacher_trainable=True,
    teacher_norm_eval=False,
    distiller=dict(
        type='FeatureDistiller',
        losses=dict(
            # KLDivergence detaches preds_T: each network takes the other's prediction as it is
            student=dict(loss=dict(type='KLDivergence', tau=1.0), features='logits'),
            peer=dict(
                loss=dict(type='KLDivergence', tau=1.0),
                inputs=dict(
                    preds_S=dict(network='teacher', feature='logits'),
                    preds_T=dict(network='student', feature='logits'),
                ),
            ),
        ),
    ),
)
