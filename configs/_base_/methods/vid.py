# VID: variational information distillation (Ahn et al., CVPR 2019)
r"""
paper: https://arxiv.org/abs/1904.05835, Ahn et al., CVPR 2019
loss: CE + VID
features: the maps of all stages

## Introduction

The student's features should hold as much information about the teacher's as possible.
A lower bound of this mutual information leads to a regression: a small network $\mu_l$ on the student's map predicts the teacher's map, as a Gaussian whose variance $\sigma_{l,c}^2$ is learned for each channel.
The loss is the negative log-likelihood without its constant, averaged over images, channels and positions, and summed over the stages:

$$L_\text{VID} = \sum_l \frac{1}{B C_l H_l W_l} \sum_{i,c,h,w} \frac12 \left( \frac{(\mu_l(F^s_{l,i}) - F^t_{l,i})_{chw}^2}{\sigma_{l,c}^2} + \log \sigma_{l,c}^2 \right)$$

## The benchmark's form

- Weight 1, on the recorded maps of all stages without the stem.
- $\mu_l$ is three 1 x 1 convolutions with ReLU between them; $\sigma^2 = \mathrm{softplus}(a) + 10^{-5}$ starts at 5.
- If two maps differ in size, the larger one is average-pooled to the size of the smaller.

```bibtex
@inproceedings{ahn2019variational,
  title     = {Variational Information Distillation for Knowledge Transfer},
  author    = {Ahn, Sungsoo and Hu, Shell Xu and Damianou, Andreas and Lawrence, Neil D. and Dai, Zhenwen},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2019}
}
```
"""

vid = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        vid=dict(
            loss=dict(type='VIDLoss'),
            features='maps',
            student_connector=dict(type='VIDRegressor'),
        )
    ),
)
