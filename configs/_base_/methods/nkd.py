# NKD: normalized knowledge distillation (Yang et al., ICCV 2023)
r"""
paper: https://arxiv.org/abs/2303.13005, Yang, Zeng, Li, Zhang, Yuan and Li, ICCV 2023
loss: CE + NKD
features: logits

## Introduction

In the cross-entropy with the teacher's probabilities, those of the classes other than the label do not sum to the same number for student and teacher, so the student cannot match them.
NKD separates the label's class and normalises the others to 1. With the probabilities $p$ at temperature 1, the label $y$, and the probabilities $\hat p$ among the classes without $y$ at the temperature $\lambda$:

$$L_\text{NKD} = - \frac1B \sum_{i=1}^{B} \left[ p^t_{iy} \log p^s_{iy} + \gamma \lambda^2 \sum_{c \ne y} \hat p^t_{ic} \log \hat p^s_{ic} \right]$$

## The benchmark's form

The authors' code ([yzd-v/cls_KD](https://github.com/yzd-v/cls_KD), commit 1e5d48f3), with $\lambda$ as `tau`:

| | $\lambda$ | $\gamma$ |
|---|---:|---:|
| CIFAR-100 (ResNet-34 / ResNet-18 is the only pair that the authors configure) | 3 | 3.5 |
| ImageNet | 1 | 1.5 |
| ImageNet, DeiT | 1 | 1 |

- The temperature softens the second term only.
- The authors give no settings for the other pairs of CIFAR-100, and no accuracies on CIFAR-100 in their repository. Here, all pairs have those of the first row.
- Their CIFAR-100 config names its schedule in a way that their version of the framework no longer reads: what runs divides the learning rate by 10 at epochs 100 and 150 of 200 (issue 19 of their repository). The schedule here is that of the pair, for every method.

## When to choose it

- It needs logits of the same classes and a label per image, or the scores of mixed images: with Mixup or CutMix, the class with the highest score counts as the label, as in the authors' code. It has no parameters.
- The authors also use it for vision transformers, and there together with [ViTKD](../vitkd/README.md).
- Both terms are cross-entropies. Their sum is large (above 100 with 100 classes and the settings of CIFAR-100) and not 0 for a student that equals its teacher, and the first one adds to the cross-entropy with the label.

```bibtex
@inproceedings{yang2023knowledge,
  title     = {From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels},
  author    = {Yang, Zhendong and Zeng, Ailing and Li, Zhe and Zhang, Tianke and Yuan, Chun and Li, Yu},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2023}
}
```
"""

nkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(nkd=dict(loss=dict(type='NKDLoss', tau=3.0, gamma=3.5), features='logits')),
)
nkd_pairs = {
    'in1k': {'losses.nkd.loss.tau': 1.0, 'losses.nkd.loss.gamma': 1.5},
    'deit3-small_deit-tiny': {'losses.nkd.loss.gamma': 1.0},
}
