# R2KD: robustness-reinforced KD with correlation distance and a pruned teacher (Kim et al., TKDE 2024)
r"""
paper: https://arxiv.org/abs/2311.13934, Kim, Ham, Cho and Kim, TKDE 2024
loss: CE + 2 R2KD + 2 R2KD of the augmented batch
features: logits

## Introduction

Augmented images do not always help KD: the teacher is less sure of them, and the KL divergence then averages over its modes, or follows the largest one.
R2KD replaces the divergence by a correlation, and lets a pruned copy of the teacher join in.

The student learns the mixed logits of the teacher and its copy, $z^T = 0.7 \, z^t + 0.3 \, z^p$. In the copy, the 10 % of the weights of each convolution and linear layer that are smallest in magnitude are 0; it is not trained.
With the probabilities $P$ of the student and $Q$ of the teachers ($B \times C$) at a temperature $T = 4$, and $\cos$ the cosine of two vectors, which is their correlation without centring:

$$V(P, Q) = T^2 \left[ 1 - \frac1B \sum_{b} \cos(P_{b \cdot}, Q_{b \cdot}) + 1 - \frac1C \sum_{c} \cos(P_{\cdot c}, Q_{\cdot c}) \right]$$

$$L = \mathrm{CE}(x) + 2 \, V(x) + 2 \, V(x')$$

Here $x'$ is the batch $x$, augmented on the device: mixed by CutMix, by default. Its labels are not used; only the teachers say what is in it.

## What the released code does

We know the paper's abstract, and the repository [Seonghak35/R2KD](https://github.com/Seonghak35/R2KD), commit ece240e, which this config follows. Some of it differs from what its names suggest:

- There is a second distance, of the *ranks* of the classes (1 minus Spearman's correlation), also with weight 2. Ranks come from sorting, so it has **no gradient**: it adds a constant to the loss and teaches nothing. Here it is logged, as `distill.r2kd_rank`, and not added.
- The pruned copy is in **training mode**: its batch norms normalise with the statistics of the batch. Here it is in eval mode, like the teacher; `model.pruned_teacher.norm_eval=False` does as released.
- The option `cutmixpick`, which should choose the mixed images of highest entropy, chooses 64 of 64 at the published batch size: it is CutMix, and we leave it out.
- The absolute value of the cosine has no effect, since probabilities are not negative.
- $10^{-8}$ is added to the product of the lengths, so that even equal logits are slightly apart. We keep it.
- The accuracy that is reported is the best of all epochs.

What differs here: the copy's batch norms, as said, and the pairs. The authors publish settings for Tiny ImageNet alone, of which we take the weights and the temperature for all data sets. Their other settings there: batches of 64, 240 epochs, learning rate 0.05 (0.01 for MobileNetV2 and ShuffleNetV2), a tenth of it after 150, 180 and 210.
We know of no accuracies with this code.

## The benchmark's form

`augment` may be any of the authors' four: `dict(type='CutMix', alpha=1.0)`, `dict(type='Mixup', alpha=0.2)`, `dict(type='BatchCutout', side=8)` (16 for Tiny ImageNet) or `dict(type='BatchAutoAugment', policy='cifar10')` (`'imagenet'` for Tiny ImageNet).

- Without the second batch: the distiller and `pruned_teacher` in a `FrozenTeacherDistill` ([how](../../docs/howto/mixing.md)).
- Without the pruned copy: `--cfg-options model.pruned_teacher=None`.
- Combined with another method (`r2kd+icd`), its losses also count on both batches, unless they read labels or positions of images, which mixed ones do not have. Features are those of the teacher; `logits` are the mixed ones.

## When to choose it

It needs the logits of both networks, and no labels for the second batch.

- The student runs on two batches, and the teacher and its copy on both: a step takes about three times as long as one of KD (ResNet-56 to ResNet-20, on a core of a CPU), and twice as long without the copy.
- The columns are those of a batch; with several processes, of that of each, unless the entry of the loss has `gather_distributed=True`.
- A teacher cache has the teachers' outputs for the original batch alone.

```bibtex
@article{kim2024robustness,
  title   = {Robustness-Reinforced Knowledge Distillation with Correlation Distance and Network Pruning},
  author  = {Kim, Seonghak and Ham, Gyeongdo and Cho, Yucheol and Kim, Daeshik},
  journal = {IEEE Transactions on Knowledge and Data Engineering},
  year    = {2024}
}
```
"""

r2kd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(r2kd=dict(loss=dict(type='CorrelationDistanceLoss', tau=4.0, loss_weight=2.0), features='logits')),
)
r2kd_settings = dict(
    model=dict(
        type='AugmentedDistill',
        augment=dict(type='CutMix', alpha=1.0),
        pruned_teacher=dict(amount=0.1, weight=0.3),
    )
)
