# KD+LS: KD with logit standardisation (Sun et al., CVPR 2024)
r"""
paper: https://arxiv.org/abs/2403.01427, Sun, Ren, Li, Wang and Cao, CVPR 2024
loss: 0.1 CE + 9 KD of standardised logits
features: logits

## Introduction

One temperature for both networks makes the student copy the range of the teacher's logits, which a small network may not reach and does not need.
So the logits of each image are standardised in both networks before they are compared, here by [KD](../kd/README.md). With the mean $\mu$ and the deviation $\sigma$ of the logits $z$ of an image over its classes:

$$\hat z = \frac{z - \mu}{\sigma + 10^{-7}}, \qquad L_\text{KD+LS} = \frac{T^2}{B} \sum_{i=1}^{B} \mathrm{KL}\big( \mathrm{softmax}(\hat z^t_i / T) \,\Vert\, \mathrm{softmax}(\hat z^s_i / T) \big)$$

Cross-entropy uses the logits as they are.

## With other methods

It is a switch of an entry in `losses`, for any loss that compares logits: `standardize=True`. On any pair, for example:

```bash
python tools/benchmarks/train.py dist PAIR --cfg-options model.distiller.losses.dist.standardize=True
```

- [DKD+LS](../dkd_ls/README.md) is a preset.
- For [RLD](../rld/README.md), its authors set `model.distiller.losses.rld.standardize=True` with `loss.alpha=9.0`, `loss.beta=72.0`, `loss.tau=2.0` and `loss.confidence_tau=2.0` of the same entry. Which classes the teacher places below the label does not change.
- For [DIST](../dist/README.md) and others, we know of no published settings. Standardised logits are usually less peaked: the authors choose lower temperatures and higher weights than without it.

## The benchmark's form

The authors' code ([sunshangquan/logit-standardization-KD](https://github.com/sunshangquan/logit-standardization-KD), commit f6e5aa51), with the settings in the names of its logs:

| teacher / student | $T$ | weight | CE |
|---|---:|---:|---:|
| CIFAR-100, by default: res32x4 / res8x4, ShuffleNetV2; WRN pairs; res56 / res20; res110 / res32 | 2 | 9 | 0.1 |
| VGG-13 / VGG-8, MobileNetV2 | 3 | 9 | 0.1 |
| res110 / res20 | 4 | 12 | 0.1 |
| ResNet-50 / MobileNetV2 | 3 | 1 | 0.1 |
| ImageNet | 2 | 9 | 1 |

- These are set by the pair. The authors have no settings for WRN-40-2 / ShuffleNetV1, res32x4 / ShuffleNetV1 and ResNet-50 / VGG-8, which get the first ones. Together with another method, cross-entropy has weight 1, as on ImageNet.
- **The paper divides by $C$ in the deviation, the code by $C - 1$.** The published numbers are those of the code, and so is the default. With 100 classes, they differ by 1 %.
- The code uses $T = 2$ and weight 9 for its baseline without standardisation, too, where [KD](../kd/README.md) has 4 and 0.9.

## When to choose it

- It needs logits of the same classes, and no labels. It has no parameters.
- It was made for a teacher whose logits have a much larger range than the student's, which is usual for a large teacher.
- The range and the mean of the student's logits are left to cross-entropy. Without it, the probabilities of the student mean nothing. The authors weigh it by 0.1 on CIFAR-100.
- The gradient is divided by the deviation of the student's logits: it is large while they are nearly equal, as early in a training. Equal logits, such as those of a classifier that starts with zeros, get no gradient here; the release multiplies theirs by $10^7$.

```bibtex
@inproceedings{sun2024logit,
  title     = {Logit Standardization in Knowledge Distillation},
  author    = {Sun, Shangquan and Ren, Wenqi and Li, Jingzhi and Wang, Rui and Cao, Xiaochun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}
```
"""

kd_ls = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    student_loss_weight=0.1,
    losses=dict(
        kd_ls=dict(
            loss=dict(type='KLDivergence', tau=2.0, loss_weight=9.0),
            features='logits',
            standardize=True,
        ),
    ),
)
kd_ls_pairs = {
    'vgg13_vgg8': {'losses.kd_ls.loss.tau': 3.0},
    'vgg13_mobilenetv2': {'losses.kd_ls.loss.tau': 3.0},
    'res110_res20': {'losses.kd_ls.loss.tau': 4.0, 'losses.kd_ls.loss.loss_weight': 12.0},
    'res50_mobilenetv2': {'losses.kd_ls.loss.tau': 3.0, 'losses.kd_ls.loss.loss_weight': 1.0},
    'in1k': {'student_loss_weight': 1.0},
}
