# KD: Distilling the Knowledge in a Neural Network (Hinton et al., arXiv 1503.02531)
r"""
paper: https://arxiv.org/abs/1503.02531, Hinton, Vinyals and Dean, arXiv 2015
loss: 0.1 CE + 0.9 KD
features: logits

## Introduction

The student learns the class probabilities of the teacher in addition to the labels.
A temperature $T$ softens both before they are compared, which shows how the teacher ranks the wrong classes.
With logits $z$ of a batch of $B$ images:

$$L_\text{KD} = \frac{T^2}{B} \sum_{i=1}^{B} \mathrm{KL}(p^t_i \Vert p^s_i), \qquad p_i = \mathrm{softmax}(z_i / T)$$

## The benchmark's form

- $T = 4$. On its own, the training loss is 0.1 cross-entropy + 0.9 KD.
- Together with another method ("+KD" in the tables), cross-entropy and KD both have weight 1.

```bibtex
@article{hinton2015distilling,
  title   = {Distilling the Knowledge in a Neural Network},
  author  = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv preprint arXiv:1503.02531},
  year    = {2015}
}
```
"""

kd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    student_loss_weight=0.1,
    losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0, loss_weight=0.9), features='logits')),
)
# together with another method: "+KD" in the published tables
kd_beside = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')),
)
