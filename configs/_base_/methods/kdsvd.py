# KD-SVD: distillation using singular value decomposition (Lee et al., ECCV 2018); equal widths only
r"""
paper: https://arxiv.org/abs/1807.06819, Lee, Kim and Song, ECCV 2018
loss: CE + KD-SVD
features: the maps of all stages at once

## Introduction

A map is a matrix of pixels and channels, and its leading singular vector is a summary of what the channels hold.
The student learns how these summaries relate from one stage to the next.
With the leading right singular vector $t_l \in \mathbb{R}^{C_l}$ of the teacher's map $l$, and $s_l$ that of the student's first four which is nearest to it, with its sign:

$$K(a, b)_{cd} = \exp\left(-\tfrac18 (a_c - b_d)^2\right), \qquad L_\text{KD-SVD} = \frac1B \sum_{i=1}^{B} \sum_l \lVert K(s_l, s_{l+1}) - K(t_l, t_{l+1}) \rVert_F^2$$

## The benchmark's form

- The form of HobbitLong/RepDistiller (b84f547), with $k = 1$ and weight 1. The maps are those of all stages, after their activation if they have one (wide ResNets have none).
- Four losses have this name. mdistiller's (a08d46f) takes vectors over the width of a map instead of its channels: `loss=dict(type='KDSVDLoss', vectors='width')`. The author's code of 2019 (sseung0703/KD_methods_with_TF 9fb5414) has $B$ times this value, a gradient that is twice as large as it should be, and clips it to the norm of the task's. In that of 2018 (SSKD_SVD 59184b4), the gradient is 0 for maps with at least as many pixels as channels.
- No accuracy on CIFAR-100 has been published for the pairs here.
- The sign of a singular vector is arbitrary, and the loss depends on it, except for $k = 1$ after a ReLU. Here the largest component is positive; the published code leaves it to the library.

## When to choose it

- Both networks need the same number of channels in every stage. Other pairs are rejected, naming the maps and the widths, before anything is built. Sizes may differ.
- It reads no labels and learns no weights.
- Each step computes the eigenvectors of a matrix for each image and map. On one CPU core, a step of res32x4 → res8x4 took about a third longer than one of KD; we have not measured it on a GPU.
- Dead channels and equal singular values give no NaN: what would be divided by 0 is left out of the gradient.

```bibtex
@inproceedings{lee2018self,
  title     = {Self-supervised Knowledge Distillation Using Singular Value Decomposition},
  author    = {Lee, Seung Hyun and Kim, Dae Ha and Song, Byung Cheol},
  booktitle = {European Conference on Computer Vision},
  pages     = {339--354},
  year      = {2018}
}
```
"""

kdsvd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        kdsvd=dict(
            loss=dict(type='KDSVDLoss'),
            inputs=dict(
                s_features=dict(network='student', feature=['maps']),
                t_features=dict(network='teacher', feature=['maps']),
            ),
        )
    ),
)
