# WSLD: weighted soft label distillation (Zhou et al., ICLR 2021)
r"""
paper: https://arxiv.org/abs/2102.00650, Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, ICLR 2021
loss: CE + 2.25 WSLD
features: logits

## Introduction

Soft labels help most on images that the student does not know yet, and can hold it back on those that it knows better than the teacher.
WSLD weighs each image by how the student's cross-entropy with the label compares with the teacher's. With logits $z$ and probabilities $p$ at the temperature $T$:

$$w_i = 1 - \exp\left( - \frac{\mathrm{CE}(z^s_i, y_i)}{\mathrm{CE}(z^t_i, y_i)} \right), \qquad L_\text{WSLD} = - \frac{T^2}{B} \sum_{i=1}^{B} w_i \sum_{c} p^t_{ic} \log p^s_{ic}$$

The weights are computed at temperature 1 and get no gradient.

## The benchmark's form

The authors' code ([bellymonster/Weighted-Soft-Label-Distillation](https://github.com/bellymonster/Weighted-Soft-Label-Distillation), commit 67820dd7):

| | $T$ | weight |
|---|---:|---:|
| CIFAR-100 (by the authors in issue 2 of their repository, not in the code) | 4 | 2.25 |
| ImageNet | 2 | 2.5 |

- The loss is `WeightedSoftLabelLoss`. The authors' code works for 1000 classes only; mmrazor's `WSLD` gives the same numbers, but needs the number of classes in the config of each dataset.
- The authors leave the teacher in training mode, so that its batch norms use the statistics of each batch, and drift. Here, the teacher is in eval mode, as for every method. Their loop on ImageNet runs for 101 epochs.
- Users of the authors' code report less than the paper on CIFAR-100: 75.07 instead of 76.05 for res32x4 / res8x4, and 72.91 instead of 74.12 for res110 / res32. The authors trained their own teachers (issues 2 and 6).

## When to choose it

- It needs logits of the same classes and one label per image: images without labels, or with several, and Mixup are refused. It has no parameters.
- If the teacher fits its training images almost perfectly, its cross-entropy is close to 0 and nearly all weights are 1. Then it is KD with another weight.
- It is a cross-entropy, not a divergence: about 40 for a student that equals its teacher (100 classes, $T = 4$), with a gradient of 0.

```bibtex
@inproceedings{zhou2021rethinking,
  title     = {Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective},
  author    = {Zhou, Helong and Song, Liangchen and Chen, Jiajie and Zhou, Ye and Wang, Guoli and Yuan, Junsong and Zhang, Qian},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}
```
"""

wsld = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        wsld=dict(loss=dict(type='WeightedSoftLabelLoss', tau=4.0, loss_weight=2.25), features='logits'),
    ),
)
wsld_pairs = {
    'in1k': {'losses.wsld.loss.tau': 2.0, 'losses.wsld.loss.loss_weight': 2.5},
}
