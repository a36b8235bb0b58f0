# mmpretrain's schedule of its ResNets: SGD 0.1 for 256 images per iteration, weight decay 1e-4, 100 epochs, learning
# rate divided by 10 after epochs 30, 60 and 90. For other than 8 processes of 32 images: --auto-scale-lr
_base_ = ['mmpretrain::_base_/schedules/imagenet_bs256.py']
