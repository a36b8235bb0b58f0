# WTTM: weighted transformed teacher matching (Zheng and Yang, ICLR 2024)
r"""
paper: https://arxiv.org/abs/2402.11148, Zheng and Yang, ICLR 2024
loss: CE + 3 WTTM
features: logits

## Introduction

WTTM is [TTM](../ttm/README.md), in which an image weighs more if the teacher is less sure of it.
The weight $U_i$ is the sum of the teacher's probabilities at temperature 1, each to the power $\gamma$: 1 if the teacher is certain, and $C^{1-\gamma}$ if all $C$ classes are equally likely. With logits $z$ of a batch of $B$ images:

$$L_\text{WTTM} = \frac1B \sum_{i=1}^{B} U_i \, \mathrm{KL}(p_i \Vert q_i), \qquad U_i = \sum_{c=1}^{C} \mathrm{softmax}(z^t_i)_c^{\,\gamma}, \qquad p_i = \mathrm{softmax}(\gamma z^t_i), \qquad q_i = \mathrm{softmax}(z^s_i)$$

## The benchmark's form

- No square of the temperature multiplies the loss. $U$ is large, about 46 for $\gamma = 0.1$ and 100 classes, so the weights of the loss are smaller than those of TTM. Cross-entropy has weight 1.
- $\gamma$ and the weight are those of the authors for each pair ([arXiv 2402.11148](https://arxiv.org/abs/2402.11148), tables 8 to 10; code: zkxufo/TTM, commit fe457b3). `train.py` chooses them by the pair:

| teacher and student | $\gamma$ | weight |
|---|---:|---:|
| `res32x4_res8x4`, `wrn40-2_wrn40-1`, and where nothing else is known | 0.1 | 3 |
| `wrn40-2_wrn16-2` | 0.1 | 4 |
| `res56_res20`, and `res20_res8`, for which none are published | 0.3 | 1.5 |
| `res110_res20` | 0.2 | 2 |
| `res110_res32` | 0.1 | 1.5 |
| `vgg13_vgg8` | 0.1 | 2.25 |
| `vgg13_mobilenetv2` | 0.2 | 3 |
| `res50_mobilenetv2` | 0.2 | 5 |
| `res50_vgg8` | 0.1 | 2 |
| `res32x4_shufflenetv1` | 0.2 | 1.4 |
| `res32x4_shufflenetv2` | 0.4 | 16 |
| `wrn40-2_shufflenetv1` | 0.3 | 3 |
| ImageNet, ResNet-34 / ResNet-18 | 0.8 | 1.6 |
| ImageNet, ResNet-50 / MobileNet | 0.7 | 3.5 |

- On ImageNet, `resnet50_mobilenet-v2` gets the settings of their pair with the first MobileNet, and other pairs those of ResNet-34 / ResNet-18. With CRD beside it, their example for `vgg13_vgg8` has $\gamma = 0.2$, weight 4, and CRD at 0.8.

## When to choose it

- It needs logits of the same classes, and neither labels nor other images of the batch. It is as fast as KD.
- It is the first to try of the two: the authors have it ahead of TTM on 10 of 13 pairs, and most of its weights lie between 1.4 and 5.
- For $\gamma < 1$ the loss pulls a student away from the logits of its teacher even if they are equal.

```bibtex
@inproceedings{zheng2024knowledge,
  title     = {Knowledge Distillation Based on Transformed Teacher Matching},
  author    = {Zheng, Kaixiang and Yang, En-Hui},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}
```
"""

wttm = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        wttm=dict(loss=dict(type='TTMLoss', gamma=0.1, weighted=True, loss_weight=3.0), features='logits'),
    ),
)
wttm_pairs = {
    pair: {'losses.wttm.loss.gamma': gamma, 'losses.wttm.loss.loss_weight': weight}
    for pair, gamma, weight in (
        ('wrn40-2_wrn16-2', 0.1, 4.0),
        ('res56_res20', 0.3, 1.5),
        # not published
        ('res20_res8', 0.3, 1.5),
        ('res110_res20', 0.2, 2.0),
        ('res110_res32', 0.1, 1.5),
        ('vgg13_vgg8', 0.1, 2.25),
        ('vgg13_mobilenetv2', 0.2, 3.0),
        ('res50_mobilenetv2', 0.2, 5.0),
        ('res50_vgg8', 0.1, 2.0),
        ('res32x4_shufflenetv1', 0.2, 1.4),
        ('res32x4_shufflenetv2', 0.4, 16.0),
        ('wrn40-2_shufflenetv1', 0.3, 3.0),
        ('in1k', 0.8, 1.6),
        ('resnet50_mobilenet-v2', 0.7, 3.5),
    )
}
