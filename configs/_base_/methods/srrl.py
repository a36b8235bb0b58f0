# SRRL: softmax regression representation learning (Yang et al., ICLR 2021), through the teacher's classifier
r"""
paper: https://openreview.net/forum?id=ZzwDy_wiWv, Yang, Martinez, Bulat and Tzimiropoulos, ICLR 2021
loss: CE + SRRL
features: the pooled feature, and the teacher's classifier

## Introduction

The student's feature should be that of the teacher, and errors count by what the teacher's classifier makes of them.
So the student's feature, brought to the teacher's width by a connector, also passes through the frozen classifier of the teacher.
With the student's feature $u$ after its connector, the teacher's $v$, both averaged over the pixels, and the teacher's classifier $W, b$:

$$L_\text{SRRL} = \frac{1}{BD} \sum_{i=1}^{B} \lVert u_i - v_i \rVert^2 + \frac{1}{BC} \sum_{i=1}^{B} \lVert (W u_i + b) - (W v_i + b) \rVert^2$$

## The benchmark's form

There are two forms. The connector is a 1 x 1 convolution, batch norm and ReLU in both, but what it gets differs, so they are not the same:

| form | code | the connector gets | its initial weights | results |
|---|---|---|---|---|
| SimKD's, the preset `srrl` on CIFAR | DefangChen/SimKD 2b389c3 | the pooled feature | torch's | CIFAR-100, **with KD** at weight 1: `srrl+kd` |
| the authors', the preset on ImageNet | jingyang2017/KD_SRRL d2e802f | the map whose average is classified, averaged after it | normal, variance $2 / D$ | ImageNet |

- Both terms have weight 1, and so has cross-entropy.
- The authors' form on any pair: `--cfg-options model.distiller.losses.srrl.inputs.s_feature.feature=classified_map model.distiller.losses.srrl.inputs.s_feature.connector.initialization=fan_out`.
- The authors train 100 epochs on ImageNet with a learning rate of 0.2 for 512 images, and report the best epoch. Their settings for CIFAR-100 are not known to us.

## When to choose it

- It needs the weights of the teacher's linear classifier. A teacher without one, or one of which only stored outputs are in memory, is refused.
- No labels are read, and widths, sizes and families of the networks may differ.
- The connector ends in a ReLU, so its output is not negative. It suits teachers whose pooled feature is not negative either, which holds for convolutional networks with ReLU. For a transformer, set `connector.relu=False`.

```bibtex
@inproceedings{yang2021knowledge,
  title     = {Knowledge Distillation via Softmax Regression Representation Learning},
  author    = {Yang, Jing and Martinez, Brais and Bulat, Adrian and Tzimiropoulos, Georgios},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}
```
"""

srrl = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        srrl=dict(
            loss=dict(type='SRRLLoss'),
            inputs=dict(
                s_feature=dict(
                    network='student', feature='pooled', connector=dict(type='PointwiseRegressor', relu=True)
                ),
                t_feature=dict(network='teacher', feature='pooled'),
            ),
        )
    ),
)
# the authors' own form, which their results on ImageNet were made with
srrl_pairs = {
    'in1k': {
        'losses.srrl.inputs.s_feature.feature': 'classified_map',
        'losses.srrl.inputs.s_feature.connector.initialization': 'fan_out',
    },
    # a transformer does not classify the average of a map, and its feature may be negative
    'deit3-small_deit-tiny': {
        'losses.srrl.inputs.s_feature.feature': 'pooled',
        'losses.srrl.inputs.s_feature.connector.relu': False,
    },
}
