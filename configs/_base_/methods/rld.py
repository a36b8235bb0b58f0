# RLD: refined logit distillation (Sun et al., ICCV 2025)
r"""
paper: https://arxiv.org/abs/2408.07703, Sun, Chen, Lyu, Chen, Chen and Wang, ICCV 2025
loss: CE + RLD, which grows over the first 20 epochs
features: logits

## Introduction

A teacher that is wrong teaches its mistake. RLD uses the label to correct it: the student takes over how sure the teacher is, but of the label, and how it ranks the classes that it places below the label.
With the probabilities $p$ at a temperature in brackets, the label $y$, the class $m$ that the teacher predicts, and the probabilities $\hat p$ among the classes whose logit in the teacher is below that of the label:

$$L_\text{RLD} = \frac1B \sum_{i=1}^{B} \left[ \alpha T_a^2\, \mathrm{KL}\big( (p^t_{im}, 1 - p^t_{im}) \,\Vert\, (p^s_{iy}, 1 - p^s_{iy}) \big)_{[T_a]} + \beta T^2\, \mathrm{KL}\big( \hat p^t_i \,\Vert\, \hat p^s_i \big)_{[T]} \right]$$

## The benchmark's form

The authors' code ([zju-SWJ/RLD](https://github.com/zju-SWJ/RLD), commit d54578fd), with $T_a$ as `confidence_tau`:

| | $\alpha$ | $\beta$ | $T$ | $T_a$ | warm-up |
|---|---:|---:|---:|---:|---|
| CIFAR-100, all pairs, by the configs | 1 | 8 | 4 | 1 | 20 epochs |
| CIFAR-100, by the command in the README (`--same-t`) | 1 | 8 | 4 | 4 | 20 epochs |
| ImageNet, ResNet-34 / ResNet-18 | 1 | 0.5 | 1 | 1 | none |
| ImageNet, ResNet-50 / MobileNetV1 | 1 | 2 | 1 | 1 | none |

- It is not known which of the first two gave the tables of the paper. The preset has the first; for the second, add `--cfg-options model.distiller.losses.rld.loss.confidence_tau=4.0`.
- ResNet-50 / MobileNetV2 on ImageNet has the settings of ResNet-50 / MobileNetV1.
- In the first 20 epochs, the loss is multiplied by $e / 20$, with $e$ from 1 (`weight_schedule`). **In a training of fewer epochs**, shorten it: `model.distiller.losses.rld.weight_schedule.end=N`.
- A class whose logit equals that of the label is left out, too. If no class is left, or one, the image has no second term.
- With logit standardisation, the authors set $\alpha = 9$, $\beta = 72$ and $T = T_a = 2$: see [KD+LS](../kd_ls/README.md).

## When to choose it

- It needs logits of the same classes and one label per image: images without labels, or with several, and Mixup are refused. It has no parameters.
- Where the teacher is right, it is [DKD](../dkd/README.md), exactly if $T_a = T$. So it differs more the more training images the teacher gets wrong: on hard data, with a teacher that was trained elsewhere, or with strong augmentation. A teacher of 100 % on its training images leaves only the difference between $T_a$ and $T$.
- A student equal to its teacher still learns, where the teacher is wrong.

```bibtex
@inproceedings{sun2025knowledge,
  title     = {Knowledge Distillation with Refined Logits},
  author    = {Sun, Wujie and Chen, Defang and Lyu, Siwei and Chen, Genlang and Chen, Chun and Wang, Can},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2025}
}
```
"""

rld = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        rld=dict(
            loss=dict(type='RLDLoss', tau=4.0, confidence_tau=1.0, alpha=1.0, beta=8.0),
            features='logits',
            weight_schedule=dict(type='Linear', begin=0, end=20, start_factor=0.05),
        ),
    ),
)
rld_pairs = {
    'in1k': {
        'losses.rld.loss.tau': 1.0,
        'losses.rld.loss.beta': 0.5,
        'losses.rld.weight_schedule': None,
    },
    'resnet50_mobilenet-v2': {
        'losses.rld.loss.tau': 1.0,
        'losses.rld.loss.beta': 2.0,
        'losses.rld.weight_schedule': None,
    },
}
