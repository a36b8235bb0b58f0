# SRD: a simple recipe with a projector and a batch norm (Miles and Mikolajczyk, AAAI 2024)
r"""
paper: https://arxiv.org/abs/2303.11098, Miles and Mikolajczyk, AAAI 2024
loss: CE + 2 SRD + KD
features: the pooled feature, the student's projected, and logits

## Introduction

A linear projector, a batch norm and a soft maximum of the errors are enough: the student's projected feature should equal the teacher's after both are normalised over the batch.
Because of the logarithm, the gradient grows as the errors shrink: half the error, twice the gradient. The fourth power favours the largest ones. With $\hat s = \mathrm{BN}(W s + b)$ and $\hat t = \mathrm{BN}(t)$, both without scale and shift:

$$L_\text{SRD} = \log \sum_{i=1}^{B} \sum_{k=1}^{D} |\hat s_{ik} - \hat t_{ik}|^4$$

## The benchmark's form

The code of the authors ([roymiles/Simple-Recipe-Distillation](https://github.com/roymiles/Simple-Recipe-Distillation)) has three forms:

| form | compares | weight | with | results |
|---|---|---:|---|---|
| since February 2024 (up to 31e8477), the preset `srd` | features, as above | 2 | KD, $\tau = 1$, weight 1 | ImageNet, ResNet-34 to ResNet-18: 71.87 % by their README, which says that this is more than in the paper |
| up to 8 February 2024 (dc7667f) | correlations: $\log \sum_k \lvert c_k - 1 \rvert^4$, $c_k = \frac1B \sum_i \hat s_{ik} \hat t_{ik}$ | 2 | - | none named |
| DeiT | correlations, with 1e-5 in the logarithm and none in the batch norms | 1 | KD, $\tau = 1$, on the distillation token | ImageNet, RegNetY-16GF to DeiT-Ti: 77.2 % |

- The config of the first form still names the second (`loss_fn: log_bn_corr_4`), which is ignored. The third does not run as released: it names a class and a variable that do not exist.
- For the second form add `--cfg-options model.distiller.losses.srd.loss.compares=correlations model.distiller.losses.srd_kd.loss.loss_weight=0`, and for the third instead of the latter `model.distiller.losses.srd.loss.bn_eps=0 model.distiller.losses.srd.loss.log_eps=1e-5 model.distiller.losses.srd.loss.loss_weight=1`.
- The authors trained on ImageNet for 100 epochs with batches of 256. Their repository has no code, settings or table for CIFAR-100; the preset has those of ImageNet.
- Without an epsilon in the logarithm, perfect agreement gives minus infinity in the first two forms. Ours is 1e-12, which matters only near it. In the third, a unit that is constant in a batch would give NaN; it counts as uncorrelated.
- Together with another method (`srd+icd`), KD is left out: add it by name (`+kd`), at $T = 4$ rather than 1. These combinations are ours.

## When to choose it

Choose it to regress the teacher's feature with one extra layer and no memory. It needs pooled features of any widths, and logits for KD. It uses the statistics of a batch within a process, so a batch of one image teaches nothing, and small batches make noisy targets.
The loss of the first form is a sum over the images: a batch twice as large adds $\log 2$, which has no gradient. So do not compare its values between batch sizes.

```bibtex
@inproceedings{miles2024understanding,
  title     = {Understanding the Role of the Projector in Knowledge Distillation},
  author    = {Miles, Roy and Mikolajczyk, Krystian},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2024}
}
```
"""

srd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        srd=dict(
            loss=dict(type='SRDLoss', loss_weight=2.0),
            features='pooled',
            student_connector=dict(type='LinearProjection', out_features=None),
        ),
        srd_kd=dict(
            loss=dict(type='KLDivergence', tau=1.0),
            inputs=dict(
                # the student's logits if it has no distillation token
                preds_S=dict(network='student', feature='distillation_logits'),
                preds_T=dict(network='teacher', feature='logits'),
            ),
        ),
    ),
)
# together with another method, which may be KD
srd_beside = dict(_scope_='mmrazor', type='FeatureDistiller', losses=dict(srd=srd['losses']['srd']))
