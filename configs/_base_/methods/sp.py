# SP: similarity-preserving distillation (Tung and Mori, ICCV 2019)
r"""
paper: https://arxiv.org/abs/1907.09682, Tung and Mori, ICCV 2019
loss: CE + 3000 SP
features: the last feature map

## Introduction

Images that look alike to the teacher should look alike to the student, whatever the student's own features are.
Each network yields a matrix of similarities between the images of the batch. Its rows are normalised, and the two matrices compared.
With $A$ the $B \times CHW$ matrix of flattened maps:

$$G = A A^\top \text{ with normalised rows}, \qquad L_\text{SP} = \frac{1}{B^2} \lVert G^s - G^t \rVert_F^2$$

## The benchmark's form

- Weight 3000, on the last feature map only. The paper allows a sum over several pairs of layers.

```bibtex
@inproceedings{tung2019similarity,
  title     = {Similarity-Preserving Knowledge Distillation},
  author    = {Tung, Frederick and Mori, Greg},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2019}
}
```
"""

sp = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(sp=dict(loss=dict(type='SPLoss', loss_weight=3000.0), features='last_map')),
)
