# DKD+LS: DKD with logit standardisation (Sun et al., CVPR 2024)
r"""
paper: https://arxiv.org/abs/2403.01427, Sun, Ren, Li, Wang and Cao, CVPR 2024
loss: CE + DKD of standardised logits, which grows over the first 20 epochs
features: logits

## Introduction

[DKD](../dkd/README.md) of logits that are standardised first, as in [KD+LS](../kd_ls/README.md): with the mean $\mu$ and the deviation $\sigma$ of the logits $z$ of an image over its classes, in both networks,

$$\hat z = \frac{z - \mu}{\sigma + 10^{-7}}, \qquad L_\text{DKD+LS} = L_\text{DKD}(\hat z^s, \hat z^t)$$

Standardised logits are usually less peaked, so the authors lower the temperature (to 2 or 3) and multiply both weights of DKD. Cross-entropy uses the logits as they are.

## The benchmark's form

The authors' code ([sunshangquan/logit-standardization-KD](https://github.com/sunshangquan/logit-standardization-KD), commit f6e5aa51), with the settings in the names of its logs. These name a weight and $\beta$, which we read as that of DKD alone; here, the weight is multiplied into $\alpha$ and $\beta$:

| teacher / student | $T$ | weight | $\alpha$ | $\beta$ |
|---|---:|---:|---:|---:|
| by default: res32x4 / res8x4, ShuffleNetV2 | 2 | 9 | 9 | 72 |
| WRN-40-2 / WRN-16-2, WRN-40-1 | 2 | 12 | 12 | 24 |
| VGG-13 / VGG-8; res110 / res20, res32; ResNet-50 / MobileNetV2 | 2 | 15 | 15 | 30 |
| res56 / res20 | 3 | 18 | 18 | 36 |
| VGG-13 / MobileNetV2 | 3 | 9 | 9 | 18 |
| ImageNet, ResNet-34 / ResNet-18 | 2 | 9 | 9 | 4.5 |
| ImageNet, ResNet-50 / MobileNet | 2 | 9 | 9 | 18 |

- These are set by the pair. The authors have no settings for WRN-40-2 / ShuffleNetV1, res32x4 / ShuffleNetV1 and ResNet-50 / VGG-8, which get the first row here, or for res20 / res8, which gets those of res56 / res20.
- The settings that were used on ImageNet are not published. The authors advise $T = 2$ and weight 9 (issue 31 of their repository). The table has these, times the $\beta$ of DKD, and, as for DKD on ImageNet, no warm-up.
- On CIFAR-100, the loss is multiplied by $e / 20$ in the first 20 epochs, with $e$ from 1 (`weight_schedule`). **In a training of fewer epochs**, shorten it: `model.distiller.losses.dkd_ls.weight_schedule.end=N`.
- The deviation is that of a sample, with $C - 1$, as in the code; the paper has $C$.

## When to choose it

- It needs logits of the same classes and one label per image: images without labels, or with several, and Mixup are refused. It has no parameters.
- In the authors' tables, it is better than DKD on all 14 pairs of CIFAR-100, by 0.1 to 1.2 points.
- The range and the mean of the student's logits are left to cross-entropy, which has weight 1 here.

```bibtex
@inproceedings{sun2024logit,
  title     = {Logit Standardization in Knowledge Distillation},
  author    = {Sun, Shangquan and Ren, Wenqi and Li, Jingzhi and Wang, Rui and Cao, Xiaochun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}
```
"""

dkd_ls = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        dkd_ls=dict(
            loss=dict(type='DecoupledKDLoss', tau=2.0, alpha=9.0, beta=72.0),
            features='logits',
            standardize=True,
            weight_schedule=dict(type='Linear', begin=0, end=20, start_factor=0.05),
        ),
    ),
)
dkd_ls_pairs = {
    'wrn40-2_wrn16-2': {'losses.dkd_ls.loss.alpha': 12.0, 'losses.dkd_ls.loss.beta': 24.0},
    'wrn40-2_wrn40-1': {'losses.dkd_ls.loss.alpha': 12.0, 'losses.dkd_ls.loss.beta': 24.0},
    'vgg13_vgg8': {'losses.dkd_ls.loss.alpha': 15.0, 'losses.dkd_ls.loss.beta': 30.0},
    'res110_res20': {'losses.dkd_ls.loss.alpha': 15.0, 'losses.dkd_ls.loss.beta': 30.0},
    'res110_res32': {'losses.dkd_ls.loss.alpha': 15.0, 'losses.dkd_ls.loss.beta': 30.0},
    'res50_mobilenetv2': {'losses.dkd_ls.loss.alpha': 15.0, 'losses.dkd_ls.loss.beta': 30.0},
    'res56_res20': {
        'losses.dkd_ls.loss.tau': 3.0,
        'losses.dkd_ls.loss.alpha': 18.0,
        'losses.dkd_ls.loss.beta': 36.0,
    },
    # not published
    'res20_res8': {
        'losses.dkd_ls.loss.tau': 3.0,
        'losses.dkd_ls.loss.alpha': 18.0,
        'losses.dkd_ls.loss.beta': 36.0,
    },
    'vgg13_mobilenetv2': {'losses.dkd_ls.loss.tau': 3.0, 'losses.dkd_ls.loss.beta': 18.0},
    'in1k': {'losses.dkd_ls.loss.beta': 4.5, 'losses.dkd_ls.weight_schedule': None},
    'resnet50_mobilenet-v2': {'losses.dkd_ls.loss.beta': 18.0, 'losses.dkd_ls.weight_schedule': None},
}
