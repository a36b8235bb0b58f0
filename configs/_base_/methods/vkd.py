# VkD: distillation through an orthogonal projection (Miles et al., CVPR 2024)
r"""
paper: https://arxiv.org/abs/2403.06213, Miles, Elezi and Deng, CVPR 2024
loss: CE + VkD + KD
features: the pooled feature, the student's projected, and logits

## Introduction

The student's feature is compared with the teacher's after a projection whose columns (or rows, if the student is wider) are orthonormal at every step. So it keeps the distances between images, if the student is not wider, and cannot learn in the student's place.
With the orthogonal projection $P$, the smooth L1 distance $\ell$, and the layer norm $\mathrm{LN}$ without scale and shift:

$$L_\text{VkD} = \frac1{BD} \sum_{i=1}^{B} \sum_{k=1}^{D} \ell \left( (P s_i)_k - \mathrm{LN}(t_i)_k \right), \qquad P^\top P = I \text{ or } P P^\top = I$$

## The benchmark's form

- Weights 1 for the cross-entropy, VkD, and KD at $\tau = 1$, as in the authors' training of DeiT on ImageNet ([roymiles/VkD](https://github.com/roymiles/VkD), 6f8a507), which has 78.3 % for RegNetY-16GF to DeiT-Ti and 82.3 % to DeiT-S. KD is on the distillation token if the student has one. Their repository has no settings for CNNs or CIFAR-100; the preset has those of DeiT.
- The authors train with AdamW (5e-4, weight decay 0.05, batches of 512, 300 epochs with a cosine to 5e-6, no warm-up). A learning rate scaled by the batch size is computed and not used.
- $P$ is torch's parametrisation, a product of reflections unless it is square. **In the release, weight decay kills it**: torch reads the signs of the columns from a diagonal of parameters as integers, and -0.9999 becomes 0. In our trials, the first step with weight decay, of AdamW or SGD, made the whole projection 0 (its norm fell from 3.46 to 0). Our `OrthogonalProjection` has the same values and gradients, but no such diagonal, so it survives any weight decay. The authors moved the projection to torch's parametrisation for the release; what the published accuracies were trained with is not in it.
- Together with another method (`vkd+icd`), KD is left out: add it by name (`+kd`), at $T = 4$ rather than 1. These combinations are ours.

## Transformers and detection

For a vision transformer as the student, the authors take the mean of its patch tokens instead of the pooled feature, which is the class token:

```python
losses = dict(
    vkd=dict(
        loss=dict(type='VkDLoss'),
        inputs=dict(
            s_feature=dict(network='student', feature='patch_tokens', connector=dict(type='OrthogonalProjection')),
            t_feature=dict(network='teacher', feature='pooled'),
        ),
    )
)
```

`deit3-small_deit-tiny` averages the patch tokens of both networks, which is ours: the teacher of the authors is a convolutional network.

Their loss for detection is `dict(type='VkDLoss', normalize='batch', loss_weight=4.0)` with `dict(type='OrthogonalProjection', affine=True)`: every unit is standardised over all tokens of the batch. Both networks need the same number of tokens. Whitening, which the paper has for other tasks, is not in the release, and not here.

## When to choose it

Choose it for batches of any size, and across families of networks. It compares each image by itself, needs pooled features of any widths, and neither labels nor positions.
The projection takes matrix products of the larger width in each step, which counts for widths in the thousands on a CPU (three seconds a step from 1280 to 2048 on one core).

```bibtex
@inproceedings{miles2024vkd,
  title     = {{VkD}: Improving Knowledge Distillation using Orthogonal Projections},
  author    = {Miles, Roy and Elezi, Ismail and Deng, Jiankang},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}
```
"""

vkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        vkd=dict(loss=dict(type='VkDLoss'), features='pooled', student_connector=dict(type='OrthogonalProjection')),
        vkd_kd=dict(
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
vkd_beside = dict(_scope_='mmrazor', type='FeatureDistiller', losses=dict(vkd=vkd['losses']['vkd']))
# the patch tokens of both networks are averaged instead of the class tokens
vkd_pairs = {'deit3-small_deit-tiny': {'losses.vkd.features': 'patch_tokens'}}
