# ReviewKD: distillation through review of earlier layers (Chen et al., CVPR 2021), with a warm-up of 20 epochs
r"""
paper: https://arxiv.org/abs/2104.09044, Chen et al., CVPR 2021
loss: CE + 5 ReviewKD
features: all feature maps and the pooled feature of the student, pre-activations and the pooled feature of the teacher

## Introduction

A shallow stage of the teacher teaches the deeper stages of the student, too: before it is compared, each map of the student is fused with those that come after it.
From the deepest level to the shallowest, a fusion module (ABF) embeds the student's map $F_l$ to $M$ channels by a 1 x 1 convolution with batch norm, resizes the fusion $R_{l+1}$ of the level above, and adds the two with gates between 0 and 1 for each pixel. A 3 x 3 convolution with batch norm brings the fusion to the teacher's width:

$$R_l = g_1 \odot \mathrm{embed}(F_l) + g_2 \odot \mathrm{resize}(R_{l+1}), \qquad (g_1, g_2) = \sigma \left( \mathrm{conv} [\mathrm{embed}(F_l), \mathrm{resize}(R_{l+1})] \right), \qquad \hat T_l = \mathrm{conv}(R_l)$$

Hierarchical context (HCL) compares $\hat T_l$ with the teacher's map $T_l$ as they are and averaged to 4 x 4, 2 x 2 and 1 x 1 cells, as far as the maps are larger. With $P_0$ the identity and $P_k$ these averages:

$$L_\text{ReviewKD} = \sum_l \frac{\sum_k 2^{-k} \, \mathrm{MSE} (P_k(\hat T_l), P_k(T_l))}{\sum_k 2^{-k}}$$

The pooled feature is the deepest level.

## The benchmark's form

- The form of the [authors' code](https://github.com/dvlab-research/ReviewKD) (commit cede6ea): the student's maps follow an activation (in wide ResNets, they are the sums of the blocks), the teacher's precede it; $M$ is the width of the student's pooled feature, at most 512.
- The weight grows from 0 in the first epoch to its full value in the 21st, as `min(1, epoch / 20)` with epochs from 0. In mdistiller, epochs count from 1, which is `start_factor=0.05, end=20`.
- No KD. Weights by pair, which the tools choose:

| pairs | weight |
|---|---:|
| WRN-40-2 with WRN-16-2, WRN-40-1 or ShuffleNetV1; ResNet-32x4 with ResNet-8x4 or ShuffleNetV1 | 5 (the preset) |
| ResNet-32x4 with ShuffleNetV2 | 8 |
| ResNet-56 with ResNet-20 | 0.6 |
| ResNet-110 with ResNet-32 | 1 |
| ImageNet, ResNet-34 with ResNet-18 | 1, pre-activations of both networks, no warm-up |
| ImageNet, ResNet-50 with MobileNet | 8 and $M = 256$, pre-activations of both networks, no warm-up |

- The authors published no weights for VGG and MobileNetV2 on CIFAR-100, so these pairs have 5. ResNet-110 with ResNet-20 has the weight 1 of ResNet-32, ResNet-20 with ResNet-8 that of ResNet-56 with ResNet-20, and MobileNetV2 on ImageNet the settings of MobileNet.
- In the authors' CIFAR-100 script, the teacher stays in training mode: its batch norms use the statistics of the batch. Here it is in eval mode.
- They train with Nesterov momentum, a learning rate of 0.1 and batches of 128; here the schedule is that of the pair, for every method.
- If one network has more stages, those at equal distances are compared, the last one with the last one.

## When to choose it

- With a stronger network of any family that has stages: maps of different sizes and widths are no obstacle.
- The gain depends on the weight, whose published values differ by a factor of 13. For networks that are not in the table, compare two or three weights in a short run.
- The fusion modules are trained with the student and dropped afterwards. They cost time: for a small student, about as much as the student.
- Stages of timm's convolutional networks have no known pre-activations; name `maps` in `t_features` instead.

```bibtex
@inproceedings{chen2021distilling,
  title     = {Distilling Knowledge via Knowledge Review},
  author    = {Chen, Pengguang and Liu, Shu and Zhao, Hengshuang and Jia, Jiaya},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2021}
}
```
"""

reviewkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        reviewkd=dict(
            loss=dict(type='ReviewKDLoss', loss_weight=5.0),
            inputs=dict(
                s_features=dict(network='student', feature=['maps', 'pooled']),
                t_features=dict(network='teacher', feature=['preactivations', 'pooled']),
            ),
            # 0 in the first epoch, 1 from the 21st on
            weight_schedule=dict(type='Linear', begin=0, end=21, start_factor=0.0),
        )
    ),
)
reviewkd_pairs = {
    'res32x4_shufflenetv2': {'losses.reviewkd.loss.loss_weight': 8.0},
    'res56_res20': {'losses.reviewkd.loss.loss_weight': 0.6},
    'res110_res32': {'losses.reviewkd.loss.loss_weight': 1.0},
    # not published
    'res20_res8': {'losses.reviewkd.loss.loss_weight': 0.6},
    'res110_res20': {'losses.reviewkd.loss.loss_weight': 1.0},
    'in1k': {
        'losses.reviewkd.loss.loss_weight': 1.0,
        'losses.reviewkd.inputs.s_features.feature': ['preactivations', 'pooled'],
        'losses.reviewkd.weight_schedule': None,
    },
    # published for MobileNet
    'resnet50_mobilenet-v2': {
        'losses.reviewkd.loss.loss_weight': 8.0,
        'losses.reviewkd.loss.mid_channels': 256,
        'losses.reviewkd.inputs.s_features.feature': ['preactivations', 'pooled'],
        'losses.reviewkd.weight_schedule': None,
    },
}
