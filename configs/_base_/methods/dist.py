# DIST: knowledge distillation from a stronger teacher (Huang et al., NeurIPS 2022)
r"""
paper: https://arxiv.org/abs/2205.10536, Huang, You, Wang, Qian and Xu, NeurIPS 2022
loss: CE + 2 DIST
features: logits

## Introduction

A student need not reach the probabilities of a teacher that is much stronger; it is enough if they rise and fall together.
DIST replaces the divergence by Pearson's correlation $\rho$, which ignores scale and offset: over the classes of each image, and over the images of a batch for each class.
With the probabilities $p$ of the student and $q$ of the teacher at the temperature $\tau$, for $B$ images and $C$ classes:

$$L_\text{DIST} = \tau^2 \left[ \Big( 1 - \frac1B \sum_{b} \rho(p_{b \cdot}, q_{b \cdot}) \Big) + \Big( 1 - \frac1C \sum_{c} \rho(p_{\cdot c}, q_{\cdot c}) \Big) \right]$$

## The benchmark's form

The authors' code ([hunto/image_classification_sota](https://github.com/hunto/image_classification_sota), commit 6f7a70a1) has the same form as the paper. Its settings:

| | $\tau$ | weight | batch |
|---|---:|---:|---|
| CIFAR-100, all pairs | 4 | 2 | 64 |
| ImageNet | 1 | 2 | 8 x 32 |

- The weight 2 multiplies both terms.
- As released, $10^{-8}$ is added to the product of the lengths in $\rho$. With many classes it counts: the columns of rare ones are so short that their correlation is drawn to 0. So the loss of equal logits is not 0.
- The loss is `PearsonCorrelationLoss`. mmrazor's `DISTLoss` gives the same numbers, but if all logits of an image are equal, or all images give the same logits, its gradients are above $10^6$. A classifier that starts with zeros meets this in the first iteration. Here, equal numbers get no gradient.

## When to choose it

- It needs logits of the same classes, and no labels. It has no parameters.
- It was made for teachers that are much stronger than the student, or trained with strong augmentation.
- The second term compares the images of a batch, so small batches say little: one image gives the constant $\tau^2$. With several processes it compares those of each process, as published. `model.distiller.losses.dist.gather_distributed=True` compares those of all.
- $\tau^2$ multiplies the loss although correlations do not shrink with $\tau$: with another temperature, choose another weight, too.

```bibtex
@inproceedings{huang2022knowledge,
  title     = {Knowledge Distillation from A Stronger Teacher},
  author    = {Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}
```
"""

dist = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        dist=dict(loss=dict(type='PearsonCorrelationLoss', tau=4.0, loss_weight=2.0), features='logits'),
    ),
)
dist_pairs = {
    'in1k': {'losses.dist.loss.tau': 1.0},
}
