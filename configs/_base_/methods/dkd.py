# DKD: decoupled knowledge distillation (Zhao et al., CVPR 2022)
r"""
paper: https://arxiv.org/abs/2203.08679, Zhao, Cui, Song, Qiu and Liang, CVPR 2022
loss: CE + DKD, which grows over the first 20 epochs
features: logits

## Introduction

The loss of [KD](../kd/README.md) consists of two: how sure the networks are of the label's class, and how they rank the other classes. KD weighs the second one by the teacher's doubt, so that little is left of it where the teacher is sure.
DKD gives each its own weight. With the probabilities $p$ at the temperature $T$, the label $y$ and the probabilities $\hat p$ among the classes without $y$:

$$L_\text{DKD} = \frac{T^2}{B} \sum_{i=1}^{B} \left[ \alpha\, \mathrm{KL}\big( (p^t_{iy}, 1 - p^t_{iy}) \,\Vert\, (p^s_{iy}, 1 - p^s_{iy}) \big) + \beta\, \mathrm{KL}\big( \hat p^t_i \,\Vert\, \hat p^s_i \big) \right]$$

## The benchmark's form

The authors' code ([megvii-research/mdistiller](https://github.com/megvii-research/mdistiller), commit a08d46f1) has the same form as the paper. $\alpha = 1$ everywhere, and:

| teacher / student | $T$ | $\beta$ | warm-up |
|---|---:|---:|---|
| res32x4 / res8x4, ShuffleNets; WRN-40-2 / ShuffleNetV1; ResNet-50 / MobileNetV2 | 4 | 8 | 20 epochs |
| WRN-40-2 / WRN-16-2, WRN-40-1; VGG-13 / VGG-8, MobileNetV2 | 4 | 6 | 20 epochs |
| res56 / res20, res110 / res32 | 4 | 2 | 20 epochs |
| ImageNet, ResNet-34 / ResNet-18 | 1 | 0.5 | none |
| ImageNet, ResNet-50 / MobileNet | 1 | 2 | none |

- These are set by the pair. The authors have no settings for res110 / res20, which gets those of res110 / res32 here, for res20 / res8, which gets those of res56 / res20, or for ResNet-50 / VGG-8, which gets those of ResNet-50 / MobileNetV2. On ImageNet, their second student is the first MobileNet; `resnet50_mobilenet-v2` gets its settings, and other pairs those of ResNet-34 / ResNet-18.
- In the first 20 epochs, the loss is multiplied by $e / 20$, with $e$ from 1 (`weight_schedule`). **In a training of fewer epochs**, shorten it: `model.distiller.losses.dkd.weight_schedule.end=N`.
- The run on ImageNet that the authors reported had $\alpha = 0.5$; they call the result of $\alpha = 1$ almost the same (issue 32 of their repository).
- The last column of CIFAR-100 in their README is headed MobileNetV2, but its numbers are those of ShuffleNetV2.
- The loss is `DecoupledKDLoss`. mmrazor's `DKDLoss` gives the same numbers, but like the authors' code it is infinite in float32 once the student prefers a class by about 104 (in units of $T$). It also makes torch warn of a deprecated argument.

## When to choose it

- It needs logits of the same classes and one label per image: images without labels, or with several, and Mixup are refused. It has no parameters.
- It is the usual baseline of methods that compare logits.
- $\beta$ differs between pairs, from 0.5 to 8. For another pair, start with that of the most similar one.
- With $\beta = 1$ it is not KD, which has $1 - p^t_{iy}$ in place of $\beta$.
- With logit standardisation: [DKD+LS](../dkd_ls/README.md).

```bibtex
@inproceedings{zhao2022decoupled,
  title     = {Decoupled Knowledge Distillation},
  author    = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}
```
"""

dkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        dkd=dict(
            loss=dict(type='DecoupledKDLoss', tau=4.0, alpha=1.0, beta=8.0),
            features='logits',
            weight_schedule=dict(type='Linear', begin=0, end=20, start_factor=0.05),
        ),
    ),
)
dkd_pairs = {
    'wrn40-2_wrn16-2': {'losses.dkd.loss.beta': 6.0},
    'wrn40-2_wrn40-1': {'losses.dkd.loss.beta': 6.0},
    'vgg13_vgg8': {'losses.dkd.loss.beta': 6.0},
    'vgg13_mobilenetv2': {'losses.dkd.loss.beta': 6.0},
    'res56_res20': {'losses.dkd.loss.beta': 2.0},
    # not published
    'res20_res8': {'losses.dkd.loss.beta': 2.0},
    'res110_res32': {'losses.dkd.loss.beta': 2.0},
    # not published
    'res110_res20': {'losses.dkd.loss.beta': 2.0},
    'in1k': {
        'losses.dkd.loss.tau': 1.0,
        'losses.dkd.loss.beta': 0.5,
        'losses.dkd.weight_schedule': None,
    },
    'resnet50_mobilenet-v2': {
        'losses.dkd.loss.tau': 1.0,
        'losses.dkd.loss.beta': 2.0,
        'losses.dkd.weight_schedule': None,
    },
}
