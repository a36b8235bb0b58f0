# DeiT: hard distillation through a distillation token (Touvron et al., ICML 2021)
r"""
paper: https://arxiv.org/abs/2012.12877, Touvron et al., ICML 2021
loss: 0.5 CE + 0.5 hard
features: logits

## Introduction

The teacher's decision $y_t = \operatorname{argmax}_c z^t_c$ is one more label.
A vision transformer learns it through a distillation token, which passes through all blocks together with the class token and has its own classifier.
With the logits $z^\text{class}$ and $z^\text{dist}$ of the two classifiers:

$$L = \tfrac12 \mathrm{CE}(z^\text{class}, y) + \tfrac12 \mathrm{CE}(z^\text{dist}, y_t)$$

In use, the student predicts with the average of both.

## Students

- With a distillation token: mmpretrain's `DistilledVisionTransformer` with a `DeiTClsHead`, or timm's `deit_*_distilled_*`. [An example](../demo/deit_res20_deit-mini_digits.py) trains on the digits.
- Any other student has one classifier, which learns both labels: the paper's hard distillation without a token.

`distillation_logits` is the name of the second classifier's output, for any loss. The paper's soft form is

```python
losses = dict(
    soft=dict(
        loss=dict(type='KLDivergence', tau=3.0, loss_weight=0.1),
        inputs=dict(
            preds_S=dict(network='student', feature='distillation_logits'),
            preds_T=dict(network='teacher', feature='logits'),
        ),
    )
)
```

with `student_loss_weight=0.9`.

```bibtex
@inproceedings{touvron2021training,
  title     = {Training Data-Efficient Image Transformers and Distillation through Attention},
  author    = {Touvron, Hugo and Cord, Matthieu and Douze, Matthijs and Massa, Francisco and Sablayrolles, Alexandre and J{\'e}gou, Herv{\'e}},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}
```
"""

deit = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    student_loss_weight=0.5,
    losses=dict(
        hard=dict(
            loss=dict(type='HardDistillationLoss', loss_weight=0.5),
            inputs=dict(
                # the student's logits if it has no distillation token
                s_feature=dict(network='student', feature='distillation_logits'),
                t_feature=dict(network='teacher', feature='logits'),
            ),
        )
    ),
)
