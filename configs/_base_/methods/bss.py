# BSS: knowledge distillation with boundary supporting samples (Heo et al., AAAI 2019)
r"""
paper: https://arxiv.org/abs/1805.05532, Heo, Lee, Yun and Choi, AAAI 2019
loss: CE + KD + KD at the teacher's boundary
features: logits

## Introduction

Images close to the teacher's decision boundary say most about where it is. There are few of them, so they are made: an attack moves images that both networks classify rightly towards another class, until the teacher's decision changes.
Per step, an image $x$ of class $b$ moves towards class $k$ by

$$\eta \left( f_b(x) - f_k(x) + \epsilon \right) \frac{\nabla_x (f_k - f_b)}{\lVert \nabla_x (f_k - f_b) \rVert_2}$$

with the teacher's logits $f$; $k$ is drawn by the teacher's probabilities of the other classes. The student learns the teacher's probabilities for these images, too, with a weight that ends at 0.

## The benchmark's form

- The form of the [authors' code](https://github.com/bhheo/BSS_distillation) (commit 586b1411): 10 steps of $\eta = 0.3$ with $\epsilon = 10^{-4}$, on logits, clipped to ±2.5 of the normalised pixels; up to 64 images of a batch, of more those whose probabilities of the wrong classes differ most between the networks.
- Temperature 3 in both terms, without the usual factor $\tau^2$. The weights fall linearly: of KD from 3.96 to 1 in 80 epochs, at the boundary from 1.97 to 0 in 60. In a training of another length, set `end` of both in proportion.
- The algorithm is `BoundarySampleDistill`. It cannot take the teacher's outputs from a [cache](../../docs/howto/teacher_cache.md) alone, since it runs the teacher on images that are made in each step.

## When to choose it

- For small networks and many epochs: a step takes 10 more passes through the teacher, forwards and backwards, on up to 64 images, and the CPU waits for the GPU to find them.
- Images need labels.

```bibtex
@inproceedings{heo2019bss,
  title     = {Knowledge Distillation with Adversarial Samples Supporting Decision Boundary},
  author    = {Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2019}
}
```
"""

bss = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        kd=dict(
            # KLDivergence multiplies by the square of its temperature
            loss=dict(type='KLDivergence', tau=3.0, loss_weight=1 / 9),
            features='logits',
            weight_schedule=dict(type='Linear', end=80, start_factor=4 - 3 / 80, end_factor=1.0),
        )
    ),
    # of the images that the algorithm makes
    distill_losses=dict(
        loss_boundary=dict(
            type='BoundarySampleLoss',
            tau=3.0,
            weight_schedule=dict(type='Linear', end=60, start_factor=2 - 1 / 30, end_factor=0.0),
        )
    ),
)
bss_settings = dict(model=dict(type='BoundarySampleDistill'))
