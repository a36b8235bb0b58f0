# RKD: relational knowledge distillation (Park et al., CVPR 2019)
r"""
paper: https://arxiv.org/abs/1904.05068, Park et al., CVPR 2019
loss: CE + 25 distance + 50 angle
features: the pooled feature

## Introduction

The student copies the geometry of the teacher's features, not the features themselves: the distances between the images of a batch, and the angles of their triangles.
Distances are divided by their mean, so the scale of the features does not matter. With the Huber loss $\ell$ and features $f$ ($s$ or $t$):

$$\psi_{ij} = \frac{\lVert f_i - f_j \rVert}{\text{mean distance}}, \qquad \phi_{ijk} = \cos \angle (f_j - f_i, f_k - f_i)$$

$$L_\text{RKD} = 25 \mathop{\mathrm{mean}}_{i,j} \ell(\psi^s_{ij}, \psi^t_{ij}) + 50 \mathop{\mathrm{mean}}_{i,j,k} \ell(\phi^s_{ijk}, \phi^t_{ijk})$$

## The benchmark's form

- Weight 25 for distances and 50 for angles, on the pooled feature, which is not normalised.

```bibtex
@inproceedings{park2019relational,
  title     = {Relational Knowledge Distillation},
  author    = {Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2019}
}
```
"""

rkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(rkd=dict(loss=dict(type='RKDLoss'), features='pooled')),
)
