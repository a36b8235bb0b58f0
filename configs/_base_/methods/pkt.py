# PKT: probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018)
r"""
paper: https://arxiv.org/abs/1803.10837, Passalis and Tefas, ECCV 2018
loss: CE + 30000 PKT
features: the pooled feature

## Introduction

The similarities of an image to those of the batch form a probability distribution over its neighbours.
The student's distribution should match the teacher's. The similarity is the cosine, rescaled to lie between 0 and 1:

$$K_{ij} = \frac{1 + \cos(f_i, f_j)}{2}, \qquad p_{ij} = \frac{K_{ij}}{\sum_k K_{ik}}, \qquad L_\text{PKT} = \frac{1}{B^2} \sum_{i,j} p^t_{ij} \log \frac{p^t_{ij}}{p^s_{ij}}$$

## The benchmark's form

- Weight 30000, on the pooled feature. It is large because the divergence is averaged over all $B^2$ pairs, including each image with itself.

```bibtex
@inproceedings{passalis2018learning,
  title     = {Learning Deep Representations with Probabilistic Knowledge Transfer},
  author    = {Passalis, Nikolaos and Tefas, Anastasios},
  booktitle = {Proceedings of the European Conference on Computer Vision},
  year      = {2018}
}
```
"""

pkt = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(pkt=dict(loss=dict(type='PKTLoss', loss_weight=30000.0), features='pooled')),
)
