# ViTKD: feature distillation between vision transformers (Yang et al., arXiv 2209.02432)
r"""
paper: https://arxiv.org/abs/2209.02432, Yang, Li, Zeng, Li, Yuan and Li, arXiv 2022
loss: CE + ViTKD
features: the tokens of blocks 1 and 2, and the last ones
example_pair: deit3-small_deit-tiny_in1k

## Introduction

The first blocks of a vision transformer are alike in teacher and student and can be imitated; the last ones differ too much.
So the student mimics the tokens of the first two blocks, and from half of its last tokens it generates the teacher's other half.
With tokens $s_l, t_l$ of $N$ patches after block $l$, linear layers $\phi$, the last tokens $s, t$ after the final norm, a random set $M$ of $\lambda N$ hidden tokens and two 3 x 3 convolutions $G$ with a ReLU between them:

$$L_\text{ViTKD} = \frac{1}{B} \sum_{i=1}^{B} \left( \alpha \sum_{l=1}^{2} \lVert \phi_l(s_l) - t_l \rVert^2 + \frac{\beta}{\lambda} \sum_{p \in M} \lVert G(\phi(s) \text{ without } M)_p - t_p \rVert^2 \right)$$

A learned token stands in for the hidden ones.

## The benchmark's form

- $\alpha = 3 \cdot 10^{-5}$, $\beta = 3 \cdot 10^{-6}$, $\lambda = 0.5$ for all pairs of the authors (yzd-v/cls_KD 1e5d48f): DeiT III-S to DeiT-T, DeiT III-B to DeiT-S, DeiT III-L to DeiT-B.
- The terms are sums over tokens and channels, so these weights belong to 14 x 14 tokens. For other numbers of tokens, scale them by 196 / N.
- Class tokens are left out. The linear layers are left out if both widths are equal; the convolutions and the learned token remain.
- The authors' configs also switch NKD on; the published "ViTKD" is without it, and `vitkd+nkd` is with it.

## When to choose it

- Teacher and student must be vision transformers without stages, with the same number of tokens; other pairs are refused. None of the CIFAR-100 pairs is one.
- It reads no labels, so Mixup and CutMix may stay on.
- The convolutions have the teacher's width: 2 x 9 x D x D weights, more than DeiT-T itself for a teacher of D = 768. They are not needed for inference.

## How to use it

```bash
python tools/train.py configs/vitkd/vitkd_deit3-small_deit-tiny_in1k.py
python tools/benchmarks/train.py vitkd+nkd deit3-small_deit-tiny_in1k   # as in the authors' configs
```

The teacher's published weights are downloaded, and the student is trained for 300 epochs as mmpretrain's DeiT-T.

```bibtex
@article{yang2022vitkd,
  title   = {ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation},
  author  = {Yang, Zhendong and Li, Zhe and Zeng, Ailing and Li, Zexian and Yuan, Chun and Li, Yu},
  journal = {arXiv preprint arXiv:2209.02432},
  year    = {2022}
}
```
"""

vitkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        vitkd=dict(
            loss=dict(type='ViTKDLoss'),
            inputs=dict(
                s_features=dict(network='student', feature=['block1', 'block2', 'last_map']),
                t_features=dict(network='teacher', feature=['block1', 'block2', 'last_map']),
            ),
        )
    ),
)
