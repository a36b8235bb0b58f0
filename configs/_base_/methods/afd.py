# AFD: attention-based feature distillation, show, attend and distill (Ji et al., AAAI 2021), with KD
r"""
paper: https://arxiv.org/abs/2102.02973, Ji, Heo and Park, AAAI 2021
loss: CE + 0.9 KD + 200 AFD
features: the outputs of all blocks, logits

## Introduction

Every block of the teacher chooses, for each image, which blocks of the student learn from it.
The choice is attention: the teacher's block $t$ gives a query $q_t$, the student's block $s$ a key $k_{st}$ for it, both embeddings of the mean of a map over its pixels, and the products of learned vectors $p_t$ and $p_s$ are added:

$$\alpha_{ts} = \mathrm{softmax}_s \frac{\langle q_t, k_{st} \rangle + \langle p_t, p_s \rangle}{\sqrt d}$$

With $Q(F)$ the mean of the squares of a map over its channels, as a unit vector of its pixels (attention transfer), the student's map averaged to the size of the teacher's:

$$L_\text{AFD} = \frac1B \sum_{b=1}^{B} \sum_{t,s} \alpha_{bts} \, \mathrm{MSE} \left( Q(F^s_{bs}), Q(F^t_{bt}) \right)$$

## The benchmark's form

- The form of the [authors' code](https://github.com/clovaai/attention-feature-distillation) (commit dd990d0): weight 200, $d = 128$, together with cross-entropy of weight 1 and KD of weight 0.9 ($T = 4$). Combined with another method (`afd+icd`), KD is left out; `+kd` adds it with weight 1.
- Blocks are all residual blocks after their activation, without the stem; those of wide ResNets after the next batch norm and ReLU. Of ResNet-110, every second block: the tools choose `block2`, `block4`, ..., `block54`.
- The authors have ResNets and wide ResNets only. Elsewhere, blocks are the units of ShuffleNets and MobileNets, the convolutions of VGG and the blocks of transformers; this is ours.
- Keys: linear, batch norm, ReLU, then linear and batch norm over all images and blocks together. Queries: linear and batch norm.
- In the authors' wide ResNet, the first batch norm of each block is called twice per forward pass, so its running statistics move twice per step. Here they move once.

## When to choose it

- For networks with many blocks, when stages are too coarse.
- All pairs of blocks are compared, as small maps without channels: 9 of ResNet-20 with 27 of ResNet-56. The recorded outputs of all blocks stay in memory until the loss, which counts with a large teacher. Name some blocks instead: `feature=['block4', 'block8', 'block12']`.
- Networks whose blocks are not known are refused (DenseNet, some of timm's).

```bibtex
@inproceedings{ji2021show,
  title     = {Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching},
  author    = {Ji, Mingi and Heo, Byeongho and Park, Sungrae},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2021}
}
```
"""

afd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        afd=dict(
            loss=dict(type='AFDLoss', loss_weight=200.0),
            inputs=dict(
                s_features=dict(network='student', feature=['blocks']),
                t_features=dict(network='teacher', feature=['blocks']),
            ),
        ),
        kd=dict(loss=dict(type='KLDivergence', tau=4.0, loss_weight=0.9), features='logits'),
    ),
)
# together with another method, which may be KD
afd_beside = dict(_scope_='mmrazor', type='FeatureDistiller', losses=dict(afd=afd['losses']['afd']))
# every second block of a deep teacher
afd_pairs = {
    'res110_res20': {'losses.afd.inputs.t_features.feature': [f'block{i}' for i in range(2, 55, 2)]},
    'res110_res32': {'losses.afd.inputs.t_features.feature': [f'block{i}' for i in range(2, 55, 2)]},
}
