# AB: activation boundaries (Heo et al., AAAI 2019); starts with a stage of 30 epochs
r"""
paper: https://arxiv.org/abs/1811.03233, Heo et al., AAAI 2019
loss: AB, then CE
features: the maps of all stages before their last activation

## Introduction

Whether a neuron is active matters more than how strongly. So the student first learns the signs of the teacher's pre-activations, and then the labels.
A margin of 1 makes this differentiable: the student's pre-activation should be above $1$ where the teacher's neuron is on, and below $-1$ where it is off.
With pre-activations $x$ of the student (after a connector to the teacher's shape) and $y$ of the teacher, $n$ stages $l = 1, \dots, n$:

$$L_\text{AB} = \sum_l 2^{l-n} \frac{3}{1000 B} \sum \left( [y \le 0] \max(x + 1, 0)^2 + [y > 0] \max(1 - x, 0)^2 \right)$$

The inner sum is over all images, channels and positions of stage $l$.

## The benchmark's form

- An initial stage of 30 epochs has no task loss; the schedule of 240 epochs follows, so `max_epochs` is 270.
- AB has weight 1 in the initial stage; a map counts half as much with each step towards the input.
- Afterwards the loss is cross-entropy alone, without any influence of the teacher.
- The connector is a convolution with batch norm, trained in the initial stage only. Maps of equal shape need none.

```bibtex
@inproceedings{heo2019knowledge,
  title     = {Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons},
  author    = {Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume    = {33},
  number    = {01},
  pages     = {3779--3787},
  year      = {2019}
}
```
"""

ab = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    initial_epochs=30,
    losses=dict(
        ab=dict(
            stage='initial',
            loss=dict(type='ActivationBoundaryLoss'),
            features='preactivations',
            decay=0.5,
            student_connector=dict(type='ConvRegressor', relu=False, identity_if_equal=True),
        )
    ),
)
