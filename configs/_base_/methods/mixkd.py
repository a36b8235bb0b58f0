# MixKD: KD on mixed images (after Liang et al., ICLR 2021), in the image form of Good-DA-in-KD
r"""
paper: https://arxiv.org/abs/2011.00593, Liang, Hao, Shen, Zhou, Chen, Chen and Carin, ICLR 2021
loss: 0.1 CE + 0.9 KD + 0.9 KD of the mixed batch
features: logits

## Introduction

In addition to the images, the student learns what the teacher says about mixtures of two images (Mixup).
The teacher sees the mixture itself; its answers for the two images are not interpolated:

$$x'_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha)$$

$$L = 0.1 \, \mathrm{CE}(x) + 0.9 \left[ \mathrm{KD}_4(x) + \mathrm{KD}_4(x') \right]$$

## Whose numbers these are

MixKD was published for language models, where word embeddings are mixed. We know its abstract; **its formulas and values could not be consulted**, and we know of no code of its authors. Secondary sources name three terms: cross-entropy of the originals, the student's mixup loss on mixed labels with a weight $\alpha_\text{SM}$, and a distance of the logits of mixtures with a weight $\alpha_\text{TMKD}$. What is said of them here is our reading of these sources.

This config is its form for images in the released code of another paper (Wang et al., *What Makes a "Good" Data Augmentation in Knowledge Distillation*, NeurIPS 2022; [MingSun-Tse/Good-DA-in-KD](https://github.com/MingSun-Tse/Good-DA-in-KD), commit 75443f9), with its weights: $\lambda$ uniform ($\alpha = 1$), one for each batch; a permutation of the batch, which may leave images as they are; KD at temperature 4 on both batches; no cross-entropy of mixtures.
There, and here, the student runs on each batch separately, so that its batch norms see them apart.
We know of no accuracies with these settings.

## Other forms

- With the student's mixup loss: `--cfg-options model.augmented_student_weight=1.0`.
- A variant without KD of the originals, with the teacher on mixtures alone: `model.original_losses="[]"`.
- CutMix: `model.augment.type=CutMix`.
- Mixtures *instead of* the images in some of the batches need no method: [Mixup in the data preprocessor](../../docs/howto/mixing.md), at the cost of plain KD.

## When to choose it

It needs the logits of both networks. A step takes about twice the time: the student runs on two batches, the teacher on both at once. A fair comparison gives plain KD twice the epochs.

```bibtex
@inproceedings{liang2021mixkd,
  title     = {{MixKD}: Towards Efficient Distillation of Large-scale Language Models},
  author    = {Liang, Kevin J and Hao, Weituo and Shen, Dinghan and Zhou, Yufan and Chen, Weizhu and Chen, Changyou and Carin, Lawrence},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}
```
"""

mixkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    student_loss_weight=0.1,
    losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0, loss_weight=0.9), features='logits')),
)
# together with another method: weights of 1, as KD has there
mixkd_beside = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')),
)
mixkd_settings = dict(model=dict(type='MixupDistill', augment=dict(type='Mixup', alpha=1.0)))
