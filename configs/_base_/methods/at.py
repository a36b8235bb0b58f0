# AT: attention transfer (Zagoruyko and Komodakis, ICLR 2017)
r"""
paper: https://arxiv.org/abs/1612.03928, Zagoruyko and Komodakis, ICLR 2017
loss: CE + 1000 AT
features: the maps of all stages

## Introduction

Where a network is active shows which parts of an image it attends to.
The attention map of a layer is the mean of the squared activations over its channels, normalised. The student's map should match the teacher's in every stage.
The two networks may differ in their number of channels.

$$q(F) = \frac1C \sum_{c=1}^{C} F_c^2, \qquad Q = \frac{q}{\lVert q \rVert_2}, \qquad L_\text{AT} = \sum_l \frac{1}{B H_l W_l} \sum_{i=1}^{B} \lVert Q(F^s_{l,i}) - Q(F^t_{l,i}) \rVert_2^2$$

## The benchmark's form

- Weight 1000, on the recorded maps of all stages without the stem, summed.
- If two maps differ in size, the larger one is average-pooled to the size of the smaller.
- The squared differences are averaged over positions. The paper has the norm of the difference, with weight $\beta / 2$.

```bibtex
@inproceedings{zagoruyko2017paying,
  title     = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention Transfer},
  author    = {Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle = {International Conference on Learning Representations},
  year      = {2017}
}
```
"""

at = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(at=dict(loss=dict(type='AttentionTransferLoss', loss_weight=1000.0), features='maps')),
)
