# RSD: redundancy suppression across architectures (Zhang et al., ICCV 2025)
r"""
paper: https://arxiv.org/abs/2507.21844, Zhang, Liu, Ran and Ma, ICCV 2025
loss: CE + 0.1 RSD
features: the pooled feature, the student's projected

## Introduction

What two architectures have in common lies in features whose units agree one by one, and are not redundant.
So the correlations over a batch between the teacher's units and those of the student, after a small projector $g$, should be the identity matrix:

$$C = \frac1B \sum_{i=1}^{B} \hat t_i \hat g(s_i)^\top, \qquad L_\text{RSD} = \sum_k (C_{kk} - 1)^2 + \kappa \sum_{k \ne l} C_{kl}^2$$

where $\hat t$ and $\hat g(s)$ are standardised over the images of the batch. The projector, a linear layer to twice the student's width, batch norm, GELU and a linear layer, lets the student keep what is particular to its architecture.

## The benchmark's form

- Weight 0.1, $\kappa = 0.01$, and the projector's ratio 2, with cross-entropy and without KD, as in [VISION-SJTU/RSD](https://github.com/VISION-SJTU/RSD) (be825ae). The loss is a sum over the units, so its size grows with the teacher's width.
- The authors' pairs have teachers and students of different architectures (Swin, ViT, Mixer, ConvNeXt to CNNs, and others) with 224 x 224 pixels, 300 epochs, and label smoothing 0.1 in the cross-entropy. None of the pairs here is among them, and their repository has no accuracies of RSD. The schedule here is that of the pair, for every method.
- The command in their README trains another method: it has `--distiller ofa`.
- A unit that is constant in a batch gets no gradient. The release multiplies its gradient by $10^5$.

## When to choose it

Choose it across families of networks (CNNs, transformers and MLPs), whose maps do not correspond. It needs pooled features only, of any widths, and neither labels nor positions. The matrix has the square of the teacher's width, and is estimated from the images of a batch in one process, so batches should not be small (the authors have 128 per process), and a batch of one image teaches nothing.

```bibtex
@inproceedings{zhang2025cross,
  title     = {Cross-Architecture Distillation Made Simple with Redundancy Suppression},
  author    = {Zhang, Weijia and Liu, Yuehao and Ran, Wu and Ma, Chao},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2025}
}
```
"""

rsd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        rsd=dict(
            loss=dict(type='RSDLoss', loss_weight=0.1),
            features='pooled',
            student_connector=dict(type='RSDProjector'),
        )
    ),
)
