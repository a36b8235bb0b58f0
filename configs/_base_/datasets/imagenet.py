# mmpretrain's own: random resized crop to 224 and flip; validation: short edge to 256, center crop of 224
_base_ = ['mmpretrain::_base_/datasets/imagenet_bs32.py']
for name in ('dataset_type', 'train_pipeline', 'test_pipeline'):
    _base_.pop(name)
del name
