# NST: neuron selectivity transfer (Huang and Wang, arXiv 1707.01219)
r"""
paper: https://arxiv.org/abs/1707.01219, Huang and Wang, arXiv 2017
loss: CE + 50 NST
features: the maps of all stages

## Introduction

Each channel responds to its own pattern of positions. The student's channels, taken as a sample of such patterns, should have the same distribution as the teacher's.
The distance between the two distributions is the maximum mean discrepancy with the kernel $k(a, b) = \langle a, b \rangle^2$.
With $a_c$ the $HW$ activations of channel $c$, normalised:

$$L_\text{NST} = \sum_l \frac1B \sum_{i=1}^{B} \left( \mathop{\mathrm{mean}}_{c,c'} k(a^t_c, a^t_{c'}) + \mathop{\mathrm{mean}}_{c,c'} k(a^s_c, a^s_{c'}) - 2 \mathop{\mathrm{mean}}_{c,c'} k(a^s_c, a^t_{c'}) \right)$$

## The benchmark's form

- Weight 50, on the recorded maps of all stages without the stem, summed.
- The kernel is the polynomial of degree 2 without a constant. The paper also has linear and Gaussian kernels.
- If two maps differ in size, the larger one is average-pooled to the size of the smaller.

```bibtex
@article{huang2017like,
  title   = {Like What You Like: Knowledge Distill via Neuron Selectivity Transfer},
  author  = {Huang, Zehao and Wang, Naiyan},
  journal = {arXiv preprint arXiv:1707.01219},
  year    = {2017}
}
```
"""

nst = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(nst=dict(loss=dict(type='NSTLoss', loss_weight=50.0), features='maps')),
)
