# ABKD: knowledge distillation by the alpha-beta divergence (Wang et al., ICML 2025)
r"""
paper: https://arxiv.org/abs/2505.04560, Wang et al., ICML 2025
loss: CE + 32 ABKD
features: logits

## Introduction

The KL divergence of KD spreads the student's probability over all classes of the teacher; the reverse one concentrates it on few. The alpha-beta divergence lies between the two, with one setting, $\alpha$, for the weight of classes with large errors, and one, $\beta$, for the weight of classes that the student finds likely.
With $p = \mathrm{softmax}(z^t / T)$ and $q = \mathrm{softmax}(z^s / T)$ of each of $B$ images:

$$L_\text{ABKD} = - \frac{1}{B \alpha \beta} \sum_{i=1}^{B} \sum_c \left( p_{ic}^{\alpha} q_{ic}^{\beta} - \frac{\alpha}{\alpha + \beta} p_{ic}^{\alpha + \beta} - \frac{\beta}{\alpha + \beta} q_{ic}^{\alpha + \beta} \right)$$

$\alpha = 1, \beta = 0$ is $\mathrm{KL}(p \Vert q)$; $\alpha = 0, \beta = 1$ is $\mathrm{KL}(q \Vert p)$; $\alpha = \beta = \frac12$ is four times the squared Hellinger distance.

## The benchmark's form

- $\alpha = 0.8$, $\beta = 0.3$, $T = 4$, weight 32, cross-entropy with weight 1: the authors' setting for `res56_res20` (ghwang-s/abkd, commit df81318). They have not published those of the other pairs, which have the same here.
- No square of the temperature multiplies the loss.
- Where $\alpha$, $\beta$ or their sum is 0, the formula is a limit. The release multiplies it by $\alpha$ (or by $\beta$, if $\alpha = 0$), which is not what the paper says. The loss here follows the release, and none of the published settings is affected: the KL divergences are the same either way. In the release's variants below, any zero but $\alpha = 1, \beta = 0$ is a division by zero.

The release puts the divergence into three other methods, too:

| variant | settings of `losses` | authors' settings |
|---|---|---|
| ABLSD, with logit standardisation | `loss=dict(type='ABKDLoss', alpha=0.9, beta=0.3, tau=2.0, loss_weight=36.0)`, `standardize=True` | weight 9 times $T^2$, cross-entropy 0.1 (`res56_res20`) |
| ABTTM, in place of the KL divergence of [TTM](../ttm/README.md) | `loss=dict(type='ABKDLoss', tau=1.0, gamma=0.1, loss_weight=76.0)` | $\alpha + \beta = 1.1$ (`wrn40-2_wrn40-1`); their script tries $\alpha$ from 0.5 to 1.6, and 0.8 is ours |
| ABDKD, in place of the second KL divergence of DKD | `loss=dict(type='ABDKDLoss')`, `weight_schedule=dict(type='Linear', begin=0, end=20, start_factor=0.05)` | DKD's weights and warm-up; a comment of the authors has $\alpha + \beta = 1$ and a weight of 6 (VGG-13 / VGG-8), and our defaults are those of ABKD |

Their scripts take $\alpha$ and the sum $\alpha + \beta$, not $\beta$.

## When to choose it

- It needs logits of the same classes, no labels (ABDKD: yes), and no other images of the batch.
- When KD is too soft or its reverse too hard: two more numbers to tune. In the commands of the authors, $\alpha + \beta$ is 1.1 or 1.2, in comments of their scripts also 1. For `res56_res20`, their README has the weight 32, a comment 64.
- The weight is not comparable with that of KD, since $T^2$ is missing: 32 is twice $T^2$.

```bibtex
@inproceedings{wang2025abkd,
  title     = {ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via $\alpha$-$\beta$-Divergence},
  author    = {Wang, Guanghui and Yang, Zhiyong and Wang, Zitai and Wang, Shi and Xu, Qianqian and Huang, Qingming},
  booktitle = {International Conference on Machine Learning},
  year      = {2025}
}
```
"""

abkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        abkd=dict(loss=dict(type='ABKDLoss', alpha=0.8, beta=0.3, tau=4.0, loss_weight=32.0), features='logits'),
    ),
)
