# ITRD: information theoretic representation distillation (Miles et al., BMVC 2022)
r"""
paper: https://arxiv.org/abs/2112.00459, Miles, Lopez-Rodriguez and Mikolajczyk, BMVC 2022
loss: CE + 2 correlation + mutual information
features: the pooled feature, the student's projected

## Introduction

Each unit of the student's projected feature should correlate with the same unit of the teacher's over the images of a batch. And the cosines between the images should carry the same information for both networks.
With features standardised over a batch of $B$ images ($\hat s$ after a learned linear layer, $\hat t$), and the matrices $G$ of cosines between the images, divided by their traces:

$$c_k = \frac1B \sum_{i=1}^{B} \hat s_{ik} \hat t_{ik}, \qquad L_\text{corr} = \log_2 \sum_k |c_k - 1|^{2 \alpha}, \qquad L_\text{mutual} = \lVert G_s \rVert_F^2 - \lVert G_{st} \rVert_F^2$$

where $G_{st}$ is the elementwise product of the matrices of both networks.

## The benchmark's form

- The authors' commands for their table: weight 2 for the correlation, 1 for the mutual information, no KD; $\alpha = 1.01$ for the seven pairs of one family of networks and $1.5$ for the six of two. The presets follow this by the pair. Their parser has other defaults: `lambda_mutual` 0.05, and $\alpha = 1.5$ for every pair. They give no settings for ImageNet, where ResNet-50 / MobileNetV2 has 1.5 here, and ResNet-34 / ResNet-18 1.01.
- As released ([roymiles/ITRD](https://github.com/roymiles/ITRD), 5d08c6b), the deviations divide by $B - 1$, but $c_k$ by $B$. So $c_k$ is at most $1 - 1/B$, and the first term at least $\log_2 D - 2 \alpha \log_2 B$ for $D$ units, and may be negative.
- $G_s$ is that of the student's own feature if the widths are equal, otherwise that of the projected one.
- A unit that is constant in a batch (a dead ReLU) counts as uncorrelated. The release gives NaN.

## When to choose it

Choose it for a small extra cost without a memory. It needs pooled features only, which may have different widths, and neither labels nor positions. It compares the images of a batch within a process, so small batches weaken it, and a batch of one image teaches nothing.
The gradient of the logarithm grows as the correlations approach 1. If that makes a training unstable, lower `correlation_weight`.

```bibtex
@inproceedings{miles2022information,
  title     = {Information Theoretic Representation Distillation},
  author    = {Miles, Roy and Lopez-Rodriguez, Adrian and Mikolajczyk, Krystian},
  booktitle = {British Machine Vision Conference},
  year      = {2022}
}
```
"""

itrd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(itrd=dict(loss=dict(type='ITRDLoss'), features='pooled')),
)
# networks of two families
itrd_pairs = {
    'vgg13_mobilenetv2': {'losses.itrd.loss.alpha': 1.5},
    'res50_mobilenetv2': {'losses.itrd.loss.alpha': 1.5},
    'res50_vgg8': {'losses.itrd.loss.alpha': 1.5},
    'res32x4_shufflenetv1': {'losses.itrd.loss.alpha': 1.5},
    'res32x4_shufflenetv2': {'losses.itrd.loss.alpha': 1.5},
    'wrn40-2_shufflenetv1': {'losses.itrd.loss.alpha': 1.5},
    'resnet50_mobilenet-v2': {'losses.itrd.loss.alpha': 1.5},
}
