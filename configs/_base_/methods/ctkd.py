# CTKD: KD with a learned temperature, which makes it harder over time (Li et al., AAAI 2023)
r"""
paper: https://arxiv.org/abs/2211.16231, Li et al., AAAI 2023
loss: 0.1 CE + 0.9 CTKD
features: logits

## Introduction

The temperature of [KD](../kd/README.md) is learned with the student, but against it: it climbs the loss that the student descends. It does so gently at first, so the task gets harder over the first epochs.
With one learned number $\theta$, which starts at 1, and logits $z$ of a batch of $B$ images:

$$L_\text{CTKD} = \frac{T^2}{B} \sum_{i=1}^{B} \mathrm{KL}(p^t_i \Vert p^s_i), \qquad p_i = \mathrm{softmax}(z_i / T), \qquad T = 1 + 20\, \sigma(\theta)$$

The student's gradient is the usual one. That of $\theta$ is multiplied by $-\lambda$, which grows over the first $E = 10$ epochs $e$:

$$\lambda(e) = \tfrac12 \left( 1 - \cos \left( \pi \min(e / E, 1) \right) \right)$$

## The benchmark's form

- On its own, the training loss is 0.1 cross-entropy + 0.9 CTKD with $E = 10$ (zhengli97/CTKD, commit 7d52522). On ImageNet, both weights are 1 and $E = 5$ (theirs for ResNet-34 / ResNet-18, in 120 epochs).
- Together with another method, cross-entropy and CTKD both have weight 1.
- $\theta$ is trained by the optimizer of the student, with the same weight decay, as released. The decay pulls $\theta$ towards 0, and $T$ towards 11. $T$ starts at 15.6, and the log has it as `distill.ctkd_tau`.
- With several processes, all share one temperature. In the release, each process learns its own.
- The release reverses the gradient by a factor from 0 to -1 without any other change of sign: the same as $-\lambda$.
- The paper also has a temperature for each image. The network that predicts it is not in the release, and not here.

**On DKD.** The authors also use the learned temperature for DKD, with weights 1 for cross-entropy, 1 for DKD's first part and 2 for its second:

```python
distiller = dict(
    type='FeatureDistiller',
    losses=dict(ctkd=dict(loss=dict(type='CTKDDKDLoss', alpha=1.0, beta=2.0), features='logits')),
)
```

In current versions of torch, their code gives a NaN for the gradient of $\theta$ there. It masks the logit of the label's class; here that class is left out.

## When to choose it

- If you have no time to tune the temperature of KD. CTKD needs logits of the same classes and no labels, and costs next to nothing.
- `LossScheduleHook`, one of the default hooks, tells the loss the epoch. Without it, training stops with an error. A training that counts iterations is refused.
- In trainings much shorter than 240 epochs, set `model.distiller.losses.ctkd.loss.ramp_epochs` in proportion. Otherwise the temperature is trained at less than its full strength for much of the run.

```bibtex
@inproceedings{li2023curriculum,
  title     = {Curriculum Temperature for Knowledge Distillation},
  author    = {Li, Zheng and Li, Xiang and Yang, Lingfeng and Zhao, Borui and Song, Renjie and Luo, Lei and Li, Jun and Yang, Jian},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2023}
}
```
"""

ctkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    student_loss_weight=0.1,
    losses=dict(ctkd=dict(loss=dict(type='CTKDLoss', loss_weight=0.9), features='logits')),
)
# together with another method, as KD
ctkd_beside = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(ctkd=dict(loss=dict(type='CTKDLoss', loss_weight=1.0), features='logits')),
)
ctkd_pairs = {
    'in1k': {
        'student_loss_weight': 1.0,
        'losses.ctkd.loss.loss_weight': 1.0,
        'losses.ctkd.loss.ramp_epochs': 5,
    },
}
