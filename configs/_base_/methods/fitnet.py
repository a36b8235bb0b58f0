# FitNet: FitNets, hints for thin deep nets (Romero et al., ICLR 2015)
r"""
paper: https://arxiv.org/abs/1412.6550, Romero et al., ICLR 2015
loss: CE + 100 FitNet
features: the third feature map

## Introduction

A feature map from the middle of the teacher is a hint: the student's map of the same stage should predict it.
A regressor $r$, a convolution with batch norm and ReLU, brings the student's map to the teacher's shape. It is trained with the student and dropped afterwards.
With maps $F$ of $C \times H \times W$:

$$L_\text{FitNet} = \frac{1}{BCHW} \sum_{i=1}^{B} \lVert r(F^s_i) - F^t_i \rVert_2^2$$

## The benchmark's form

- Weight 100, on the third of the recorded maps (stem, stage 1, stage 2, ...).
- Training has a single stage, with hint and cross-entropy together. The paper first trains the lower half of the student on the hint, then the whole student with KD.
- The regressor depends on the two sizes: a convolution with stride 2 to halve the size, a transposed convolution to double it, otherwise a kernel that makes up the difference.

```bibtex
@inproceedings{romero2015fitnets,
  title     = {{FitNets}: Hints for Thin Deep Nets},
  author    = {Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and Gatta, Carlo and Bengio, Yoshua},
  booktitle = {International Conference on Learning Representations},
  year      = {2015}
}
```
"""

fitnet = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        fitnet=dict(
            loss=dict(type='L2Loss', normalize=False, div_element=True, loss_weight=100.0),
            features='map2',
            student_connector=dict(type='ConvRegressor'),
        )
    ),
)
