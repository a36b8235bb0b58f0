# MLD: Multi-label Logits Distillation, binary KD for images with several labels (Yang et al., ICCV 2023)
r"""
paper: https://arxiv.org/abs/2308.06453, Yang, Xie, Zong, Feng, Niu, Sugiyama and Huang, ICCV 2023
loss: CE + 10 MLD
features: logits

## Introduction

If an image can have several labels, each class is a question by itself, and a softmax would make the classes exclude each other.
So each class gets its own sigmoid, and the student learns the teacher's answer to each question. With logits $z$ of $B$ images and $C$ classes:

$$L_\text{MLD} = \frac{\tau^2}{B} \sum_{i=1}^{B} \sum_{c=1}^{C} \mathrm{KL}\big(\sigma(z^t_{ic} / \tau) \,\Vert\, \sigma(z^s_{ic} / \tau)\big)$$

The authors use $\tau = 1$, as a part of their method L2D. The loss is called `BinaryKDLoss` here, since it does the same for any classifier.

## The benchmark's form

- $\tau = 1$, summed over the classes, weight 10, as in the authors' code.
- It also accepts images with one label. No accuracy on CIFAR-100 has been published for it.

## How to use it

With a multi-label head of mmpretrain in both networks, alone or together with ICD:

```python
distiller = dict(type='ICDDistiller', kd=dict(type='BinaryKDLoss', tau=1.0, loss_weight=10.0))
```

```bibtex
@inproceedings{yang2023multilabel,
  title     = {Multi-Label Knowledge Distillation},
  author    = {Yang, Penghui and Xie, Ming-Kun and Zong, Chen-Chen and Feng, Lei and Niu, Gang and Sugiyama, Masashi and Huang, Sheng-Jun},
  booktitle = {International Conference on Computer Vision},
  year      = {2023}
}
```
"""

mld = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(mld=dict(loss=dict(type='BinaryKDLoss', loss_weight=10.0), features='logits')),
)
