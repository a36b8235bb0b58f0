# ICKD: inter-channel correlation (Liu et al., ICCV 2021)
r"""
paper: https://arxiv.org/abs/2202.03680, Liu, Huang, Lin, Xie, Wang, Chang and Liang, ICCV 2021
loss: CE + 2.5 ICKD
features: the last feature map

## Introduction

Channels of a map that respond alike hold the same information, others add to its diversity.
So the student learns how each channel of the teacher's map correlates with all others.
With the maps $F$ of an image as $C \times HW$, the student's after a connector to the teacher's width, and $\hat g_c$ the $c$-th row of $F F^\top$ divided by its length:

$$L_\text{ICKD} = \frac{1}{BC} \sum_{i=1}^{B} \sum_{c=1}^{C} \lVert \hat g^s_{ic} - \hat g^t_{ic} \rVert^2$$

## The benchmark's form

- Weight 2.5, on the last map, as in the README beside the published results (ADLab-AutoDrive/ICKD 403b8d3). `train_student.sh` has 4 in later commits.
- The connector is a 1 x 1 convolution without bias and batch norm, even if the widths are equal.
- `ickd+kd` adds KD with weight 1, as in the README; that script has 2.
- On ImageNet, the authors' loss is divided by the batch size once more and has the factor 500, together with KD, and the student starts from its published weights (AdamW, learning rate 2e-4). The preset does not do this.

## When to choose it

- It needs the last maps of both networks, and no labels. Sizes and widths may differ, since the correlations are sums over the pixels.
- A row of correlations is normalised, so the scale of the teacher's map does not matter. A dead channel has no correlations and no gradient.
- Its matrices take $B C^2$ numbers: 64 images with 2048 channels are 1 GB for each network.

```bibtex
@inproceedings{liu2021exploring,
  title     = {Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation},
  author    = {Liu, Li and Huang, Qingle and Lin, Sihao and Xie, Hongwei and Wang, Bing and Chang, Xiaojun and Liang, Xiaodan},
  booktitle = {International Conference on Computer Vision},
  pages     = {8271--8280},
  year      = {2021}
}
```
"""

ickd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        ickd=dict(
            loss=dict(type='ICKDLoss', loss_weight=2.5),
            features='last_map',
            student_connector=dict(type='PointwiseRegressor'),
        )
    ),
)
