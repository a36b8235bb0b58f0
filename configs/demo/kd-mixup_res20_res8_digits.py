# KD, with Mixup in half of the batches: teacher and student see the same mixtures, see docs/howto/mixing.md
_base_ = ['./icd_res20_res8_digits.py', '../_base_/methods/kd.py']
data_preprocessor = dict(num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0), probs=[0.5]))
model = dict(distiller=dict(_delete_=True, **_base_.pop('kd')))
_base_.pop('kd_beside')
