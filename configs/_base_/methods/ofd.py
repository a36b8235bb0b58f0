# OFD: a comprehensive overhaul of feature distillation (Heo et al., ICCV 2019)
r"""
paper: https://arxiv.org/abs/1904.01866, Heo, Kim, Yun, Park, Kwak and Choi, ICCV 2019
loss: CE + OFD
features: the maps of all stages before their last activation

## Introduction

What the next layer sees of a negative value before a ReLU is 0, however negative it is.
So positive values of the teacher are targets as they are, and a negative one is met by anything below a margin.
With the student's pre-activation $x$ after a connector, the teacher's $y$, and the margin $m_c < 0$ of a channel, $n$ stages $l = 1, \dots, n$:

$$\hat y = \max(y, m_c), \qquad L_\text{OFD} = \frac{1}{1000 B} \sum_l 2^{l-n} \sum \left[ y > 0 \text{ or } x > \hat y \right] (x - \hat y)^2$$

The margin is the mean of the negative values of a normal distribution, whose mean and deviation are the bias $\beta_c$ and the scale $\lvert \gamma_c \rvert$ of the teacher's batch norm:

$$m_c = \mathbb{E}\left[ z \mid z < 0 \right], \quad z \sim \mathcal{N}(\beta_c, \gamma_c^2)$$

It is $-3 \lvert \gamma_c \rvert$ if values below 0 have a probability of 0.001 at most.

## The benchmark's form

- Weight 1, the sum divided by 1000 on CIFAR (by 10,000 on ImageNet), as in the authors' code (clovaai/overhaul-distillation 76344a8); mdistiller has the same on CIFAR.
- In a ResNet the shortcut is added between the last batch norm and the activation. The authors use the norm of the residual branch for the sum all the same, and so does this preset.
- The connector is a 1 x 1 convolution without bias and batch norm. Larger maps are averaged to the size of the smaller ones, as in mdistiller.
- The authors' code and mdistiller leave the teacher in training mode, so that the statistics of its batch norms drift. Here the teacher is frozen.
- The authors train on CIFAR-100 with 128 images, a learning rate of 0.1 with Nesterov momentum, 200 epochs, and crops of mirrored borders.

mmrazor's `OFDDistiller` has the same loss for wide ResNets, whose pre-activations are outputs of a batch norm; [a config](../mixed/icd-ofd_wrn40-2_wrn16-2_cifar100.py) combines it with ICD.

## When to choose it

- It needs the pre-activations of both networks, and a batch norm before the last activation of each stage of the teacher: ResNets, wide ResNets and VGGs with batch norm. Other teachers are refused. The student may be any network whose pre-activations are known.
- It reads no labels; widths and sizes may differ.
- The sum over a map grows with its size: for other image sizes, another `divisor` may be better.

```bibtex
@inproceedings{heo2019comprehensive,
  title     = {A Comprehensive Overhaul of Feature Distillation},
  author    = {Heo, Byeongho and Kim, Jeesoo and Yun, Sangdoo and Park, Hyojin and Kwak, Nojun and Choi, Jin Young},
  booktitle = {International Conference on Computer Vision},
  pages     = {1921--1930},
  year      = {2019}
}
```
"""

ofd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        ofd=dict(
            loss=dict(type='OverhaulLoss'),
            features='preactivations',
            decay=0.5,
            student_connector=dict(type='PointwiseRegressor', initialization='fan_out'),
        )
    ),
)
ofd_pairs = {'in1k': {'losses.ofd.loss.divisor': 10000.0}}
