# RTK: representative teacher keys (Yang, Kao and Huang, arXiv 2206.12788), our reading of the abstract
r"""
paper: https://arxiv.org/abs/2206.12788, Yang, Kao and Huang, arXiv 2022
loss: CE + 0.9 KD + 200 RTK
features: the outputs of all blocks, logits

## Introduction

**This is our reading of the abstract; the paper's formulas were not at hand.** Its numbers are not reproduced here, and nothing that this configuration trains can be compared with them.

The abstract says that feature maps are distilled by their similarity between teacher and student, inspired by attention; that useless information is filtered out; and that this improves "the state-of-the-art attention-based" method. Here, that method is [AFD](../afd/README.md), which the abstract does not name.

Every block of the student asks which blocks of the teacher it should learn from. With the logits of AFD's attention $a_{ts}$ between the teacher's block $t$ and the student's block $s$, and $R_s$ the $m$ blocks of the teacher with the largest $a_{ts}$ for this image, its representative keys:

$$\alpha_{ts} = \begin{cases} \mathrm{softmax}_{t \in R_s} \, a_{ts} & t \in R_s \\ 0 & \text{otherwise} \end{cases}$$

With $Q(F)$ the mean of the squares of a map over its channels, as a unit vector of its pixels, the student's map averaged to the size of the teacher's:

$$L_\text{RTK} = \frac1B \sum_{b=1}^{B} \sum_{t,s} \alpha_{bts} \, \mathrm{MSE} \left( Q(F^s_{bs}), Q(F^t_{bt}) \right)$$

## The benchmark's form

- What the abstract fixes: similarity of feature maps, attention, a filter. What is ours: the formula above, $m$ = half of the teacher's blocks, rounded up (`num_keys=0.5`), and the softmax over the teacher's blocks (`softmax_over='teacher'`); in AFD, it is over the student's.
- Weights, attention and blocks are those of [AFD](../afd/README.md): weight 200, $d = 128$, together with cross-entropy of weight 1 and KD of weight 0.9 ($T = 4$). Combined with another method (`rtk+icd`), KD is left out; `+kd` adds it with weight 1.

## When to choose it

- To study what the filter changes: `num_keys=None` has none, `num_keys=1` chooses a single block of the teacher.
- With a softmax over the teacher's blocks, attention may settle on those that the student already matches, so that no block of the student learns the others. AFD's direction gives each block of the teacher a learner: `softmax_over='student'`.
- What AFD says about [many blocks](../afd/README.md#when-to-choose-it) applies here, too.

```bibtex
@article{yang2022representative,
  title   = {Representative Teacher Keys for Knowledge Distillation Model Compression Based on Attention Mechanism for Image Classification},
  author  = {Yang, Jun-Teng and Kao, Sheng-Che and Huang, Scott C.-H.},
  journal = {arXiv preprint arXiv:2206.12788},
  year    = {2022}
}
```
"""

rtk = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        rtk=dict(
            loss=dict(type='AFDLoss', num_keys=0.5, softmax_over='teacher', loss_weight=200.0),
            inputs=dict(
                s_features=dict(network='student', feature=['blocks']),
                t_features=dict(network='teacher', feature=['blocks']),
            ),
        ),
        kd=dict(loss=dict(type='KLDivergence', tau=4.0, loss_weight=0.9), features='logits'),
    ),
)
# together with another method, which may be KD
rtk_beside = dict(_scope_='mmrazor', type='FeatureDistiller', losses=dict(rtk=rtk['losses']['rtk']))
# every second block of a deep teacher
rtk_pairs = {
    'res110_res20': {'losses.rtk.inputs.t_features.feature': [f'block{i}' for i in range(2, 55, 2)]},
    'res110_res32': {'losses.rtk.inputs.t_features.feature': [f'block{i}' for i in range(2, 55, 2)]},
}
