# CC: correlation congruence (Peng et al., ICCV 2019)
r"""
paper: https://arxiv.org/abs/1904.01802, Peng et al., ICCV 2019
loss: CE + 0.02 CC
features: the pooled feature, embedded

## Introduction

The student should match the teacher not only for single images but also in the correlations between images.
Trained linear embeddings $e$ bring both pooled features to the same width.
The benchmark compares the deviations of neighbouring images in the batch:

$$\Delta_i = |e_s(s_i) - e_t(t_i)|, \qquad L_\text{CC} = \frac{1}{B - 1} \sum_{i=1}^{B-1} \langle \Delta_i, \Delta_{i+1} \rangle$$

## The benchmark's form

- Weight 0.02, embeddings of width 128.
- The paper compares whole correlation matrices, under a kernel that a Taylor series approximates, and samples batches for it. The benchmark uses the short form above.

```bibtex
@inproceedings{peng2019correlation,
  title     = {Correlation Congruence for Knowledge Distillation},
  author    = {Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Li, Dongsheng and Wu, Yichao and Liu, Yu and Zhou, Shunfeng and Zhang, Zhaoning},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2019}
}
```
"""

cc = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        cc=dict(
            loss=dict(type='CCLoss', loss_weight=0.02),
            features='pooled',
            student_connector=dict(type='LinearProjection'),
            teacher_connector=dict(type='LinearProjection'),
        )
    ),
)
