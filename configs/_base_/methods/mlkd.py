# MLKD: multi-level logit distillation (Jin et al., CVPR 2023), with two views of each image
r"""
paper: https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html, Jin, Wang and Lin, CVPR 2023
loss: 0.1 CE of each view + 0.9 MLKD
features: logits

## Introduction

The student learns the teacher's predictions for single images at five temperatures, and how similar the predictions are between the images of a batch and between the classes.
It sees each image twice in a batch: a weak view, cropped and flipped, and a strong one, which is cropped and flipped with other random numbers, then changed by RandAugment and cutout.

With the probabilities $P_T$ ($B \times C$) of the weak views at a temperature $T$, of student ($s$) and teacher ($t$), and the temperatures $T \in \lbrace 4, 3, 5, 2, 6 \rbrace$, the code that the authors released computes

$$L_\text{kd} = m \sum_{T} \mathrm{KD}^\text{weak}_T + \sum_{T \in \lbrace 4, 3, 5 \rbrace} \mathrm{KD}^\text{strong}_T + \sum_{T \in \lbrace 2, 6 \rbrace} \mathrm{KD}^\text{weak}_T$$

$$L_\text{cc} = \frac{m_c}{C} \sum_T \left\lVert {P^t_T}^\top P^t_T - {P^s_T}^\top P^s_T \right\rVert^2, \qquad L_\text{bc} = \frac{m}{B} \sum_T \left\lVert P^t_T {P^t_T}^\top - P^s_T {P^s_T}^\top \right\rVert^2$$

$$L = 0.1 \left( \mathrm{CE}^\text{weak} + \mathrm{CE}^\text{strong} \right) + 0.9 \left( L_\text{kd} + L_\text{cc} + L_\text{bc} \right)$$

Here $m$ is the share of the batch's images whose largest teacher probability is at most the median, and $m_c$ the share of the classes whose summed teacher probability is; both are about a half.

## Not comparable with methods of one view

The published accuracies have twice the views, strong augmentation, and 480 epochs (ShuffleNet: 960) where the other methods of the benchmark have 240. The learning rate falls after 150, 180 and 210 epochs all the same, so that more than half of the training runs at the lowest. They are also the best accuracies of all epochs, not the last.
Do not compare MLKD with methods of one view: neither the published numbers nor a run of this config says anything about the loss alone. A student that is trained alone, or by KD, with the same `TwoViewDataset` and the same epochs would be a fair comparison. Our tables keep such methods apart.

## What the released code does

Repository [Jin-Ying/Multi-Level-Logit-Distillation](https://github.com/Jin-Ying/Multi-Level-Logit-Distillation), commit 5ee473f. This config follows it, where it differs from what its own names and comments suggest:

- The masks of unsure images and classes select nothing. Each term is one number before it is multiplied by a mask and averaged, so $m$ and $m_c$ only scale it. The argument that would have kept the images apart is commented out.
- In the sum over the strong views, the temperatures 2 and 6 are those of the weak views again.
- The similarities between strong views, $L_\text{cc}$ and $L_\text{bc}$, are computed and never added.
- The second number of `RandAugment(2, 10)` has no effect: two of 14 operations are drawn, each with a strength uniform in its own range, and the cutout belongs to it, with a side of up to half the image.
- A temperature of 2, 3, 5 or 6 instead of 4 counts twice.
- In September 2024, the configs of the six pairs with one family of networks were changed from 480 to 240 epochs. We know of no accuracies for them.

What differs here:

- The student sees both views in one batch of $2B$. The authors run it on each view separately, so that its batch norms have statistics for each.
- The schedule is that of the pair, 240 epochs on CIFAR-100. The authors' learning rate is 0.025 instead of 0.05 (for MobileNet and ShuffleNet 0.01, as here): `--cfg-options train_cfg.max_epochs=480 optim_wrapper.optimizer.lr=0.025`.
- The operations are mmpretrain's instead of Pillow's. The same images come out, but for `ColorTransform` of RGB arrays (its gray is that of BGR), the outermost pixels of `Sharpness`, and half a pixel in the centre of `Shear`.

## The benchmark's form

- CIFAR-100: a first temperature of 4, weight 0.9, cross-entropy 0.1 for each view. The student's own loss is a mean over both views, so its weight is 0.2.
- ImageNet: a first temperature of 1, weight 0.5, cross-entropy 0.5 for each view.
- With logit standardisation ([LSKD](https://github.com/sunshangquan/logit-standardization-KD), commit f6e5aa5), in the terms KD alone: `--cfg-options model.distiller.losses.mlkd.loss.standardize=True model.distiller.losses.mlkd.loss.tau=2.0 model.distiller.losses.mlkd.loss.loss_weight=9.0` (6 for VGG-13 pairs and ShuffleNetV2), also with 480 epochs.

## When to choose it

It needs the logits of both networks, and two views of each image: a step takes twice the time, and strong views need the CPU.

- [`TwoViewDataset`](../../docs/howto/two_views.md) makes the views of any dataset. The method's config wraps that of the pair.
- Strong views cannot be numbered, so a teacher cache is not used.
- Mixup and the like are refused, as are combinations with methods of one view.
- Similarities and medians are those of a batch; with several processes, of that of each.

## How to use it

```bash
python tools/train.py configs/mlkd/mlkd_res32x4_res8x4_cifar100.py
python tools/benchmarks/train.py mlkd PAIR      # on any pair that it fits; --list shows them
```

Distillation needs a trained teacher: see [vanilla](../vanilla/README.md).

```bibtex
@inproceedings{jin2023multilevel,
  title     = {Multi-Level Logit Distillation},
  author    = {Jin, Ying and Wang, Jiaqi and Lin, Dahua},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {24276--24285},
  year      = {2023}
}
```
"""

mlkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    # 0.1 for each of the two views
    student_loss_weight=0.2,
    losses=dict(mlkd=dict(loss=dict(type='MultiLevelLogitLoss', loss_weight=0.9), features='logits')),
)
mlkd_pairs = {
    'in1k': {
        'student_loss_weight': 1.0,
        'losses.mlkd.loss.tau': 1.0,
        'losses.mlkd.loss.loss_weight': 0.5,
    }
}
# the training set, with the authors' strong views: strengths are uniform in their ranges, 0 leaves an image as it is
mlkd_dataset = dict(
    type='TwoViewDataset',
    strong=[
        dict(
            type='RandAugment',
            num_policies=2,
            magnitude_level=10,
            total_level=10,
            magnitude_std='inf',
            hparams=dict(prob=1.0, random_negative_prob=0.0, pad_val=0, interpolation='nearest'),
            policies=[
                dict(type='AutoContrast'),
                dict(type='Brightness', magnitude_range=(-0.95, -0.05)),
                dict(type='ColorTransform', magnitude_range=(-0.95, -0.05)),
                dict(type='Contrast', magnitude_range=(-0.95, -0.05)),
                dict(type='Equalize'),
                # the identity
                dict(type='AutoContrast', prob=0.0),
                # rounded up: 4 to 7 bits
                dict(type='Posterize', magnitude_range=(3, 7)),
                dict(type='Rotate', magnitude_range=(-30, 30)),
                dict(type='Sharpness', magnitude_range=(-0.95, -0.05)),
                dict(type='Shear', magnitude_range=(-0.3, 0.3), direction='horizontal'),
                dict(type='Shear', magnitude_range=(-0.3, 0.3), direction='vertical'),
                dict(type='Solarize', magnitude_range=(0, 256)),
                dict(type='Translate', magnitude_range=(-0.3, 0.3), direction='horizontal'),
                dict(type='Translate', magnitude_range=(-0.3, 0.3), direction='vertical'),
            ],
        ),
        dict(type='SquareCutout', max_side=0.5, fill=(125, 123, 114)),
    ],
)
