# The published protocol for MobileNetV2 and the ShuffleNets: the same with a learning rate of 0.01.
_base_ = ['cifar_240e.py']
optim_wrapper = dict(optimizer=dict(lr=0.01))
