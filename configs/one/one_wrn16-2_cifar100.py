_base_ = ['../vanilla/wrn16-2_cifar100.py', '../_base_/online/one.py']
model = {**_base_.pop('model'), **_base_.pop('one')}
