# BSS: knowledge distillation with boundary supporting samples (Heo et al., AAAI 2019)
r"""
paper: https://arxiv.org/abs/1805.05532, Heo, Lee, Yun and Choi, AAAI 2019
loss: CE + KD + KD at the teacher's boundary
features: logits

## Introduction

Images close to the teacher's decision boundary tell the most about its position. There are few of them, so they are made: an attack moves images that both networks classify correctly towards another class, until the teacher's decision changes.
Per step, an image $x$ of class $b$ moves towards class $k$ by

$$\eta \left( f_b(x) - f_k(x) + \epsilon \right) \frac{\nabla_x (f_k - f_b)}{\lVert \nabla_x (f_k - f_b) \rVert_2}$$

with the teacher's logits $f$; $k$ is drawn by the teacher's probabilities of the other classes. The student learns the teacher's probabilities for these images, too, with a weight that ends at 0.

## The benchmark's form

- The form of the [authors' code](https://github.com/bhheo/BSS_distillation) (commit 586b1411): 10 steps of $\eta = 0.3$ with $\epsilon = 10^{-4}$, on logits, clipped to ±2.5 of the normalised pixels; at most 64 images of a batch; if there are more that both networks classify correctly, those whose probabilities of the wrong classes differ most between the networks.
- Temperature 3 in both terms, without the usual factor $\tau^2$. The weights fall linearly: of KD from 3.96 to 1 in 80 epochs, at the boundary from 1.97 to 0 in 60. In a training of another length, set `end` of both in proportion.
- Together with other methods (`bss+icd`), BSS has its term at the boundary alone; for its KD as well, add it: `bss+kd+icd`.
- The algorithm is `BoundarySampleDistill`. It cannot take the teacher's outputs from a [cache](../../docs/howto/teacher_cache.md) alone, since it runs the teacher on images that are made in each step.

## When to choose it

- For small networks and many epochs: besides what KD needs, a step takes 10 passes through the teacher, forwards and backwards, and one more of each network, on at most 64 images. The CPU waits for the GPU, which chooses the images.
- Images need labels. With several processes, the student cannot have synchronised batch norms (`sync_bn`): a process without an image to attack would let the others wait.

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
# together with another method
bss_beside = dict(_scope_='mmrazor', type='FeatureDistiller', losses=dict(), distill_losses=bss['distill_losses'])
bss_settings = dict(model=dict(type='BoundarySampleDistill'))
