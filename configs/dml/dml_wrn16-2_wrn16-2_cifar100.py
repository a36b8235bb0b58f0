_base_ = ['../vanilla/wrn16-2_cifar100.py', '../_base_/online/dml.py']
model = dict(architecture=_base_.model, teacher=_base_.pop('model'), **_base_.pop('dml'))
