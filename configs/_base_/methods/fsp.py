# FSP: flow of solution procedure (Yim et al., CVPR 2017); equal widths only; starts with a stage of 30 epochs
r"""
paper: https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html, Yim, Joo, Bae and Kim, CVPR 2017
loss: FSP, then CE
features: each feature map with the next

## Introduction

The inner products between the channels of one layer and those of a later one, over all positions, describe how a network solves a task step by step.
The student first learns these matrices, and then the labels. With consecutive maps $F_l$ and $F_{l+1}$ at $HW$ positions $p$:

$$G_l = \frac{1}{HW} \sum_p F_{l,p} F_{l+1,p}^\top, \qquad L_\text{FSP} = \sum_l \frac{1}{B C_l C_{l+1}} \sum_{i=1}^{B} \lVert G^s_{l,i} - G^t_{l,i} \rVert_F^2$$

## The benchmark's form

- An initial stage of 30 epochs has no task loss; the schedule of 240 epochs follows, so `max_epochs` is 270.
- All consecutive pairs of the recorded maps are used, including the stem; the larger map of a pair is average-pooled to the size of the smaller.
- FSP has weight 1 in the initial stage; afterwards the loss is cross-entropy alone. The weight 50 of the published scripts applies to that later stage, so it has no effect.
- Both networks need the same number of channels in every map. Other pairs are rejected, naming the two widths, before anything is built.

```bibtex
@inproceedings{yim2017gift,
  title     = {A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning},
  author    = {Yim, Junho and Joo, Donggyu and Bae, Jihoon and Kim, Junmo},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition},
  pages     = {4133--4141},
  year      = {2017}
}
```
"""

fsp = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    initial_epochs=30,
    losses=dict(
        fsp=dict(
            stage='initial',
            # the published weight of 50 belongs to the main stage, which does not use FSP
            loss=dict(type='FSPLoss'),
            features='consecutive_maps',
        )
    ),
)
