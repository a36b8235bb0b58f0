# SimKD: the student gets the teacher's classifier and learns the map that it classifies (Chen et al., CVPR 2022)
r"""
paper: https://arxiv.org/abs/2203.14001, Chen et al., CVPR 2022
loss: SimKD, without CE
features: the map that the teacher classifies; **changes the student**

## Introduction

The teacher's classifier is reused as it is: the student learns to give it the map that the teacher gives it.
A projector $P$ of three convolutions turns the student's last map $F_s$ into one like the teacher's, $F_t$, and nothing else is compared, neither labels nor logits:

$$L_\text{SimKD} = \frac{1}{C H W} \left\lVert F_t - P(F_s) \right\rVert_2^2, \qquad \text{logits} = W_t \, \mathrm{avg}(P(F_s)) + b_t$$

## The student is another one

At inference, projector and classifier replace the student's pooling and head. `FrozenTeacherDistill` changes it when it is built, so validation, checkpoints, `student_last.pth`, ONNX files, the report and all counts have the changed student, and say so:

```
student  CIFARResNet(depth=8, stem_channels=32, base_channels=64), 1,447,556 parameters, changed by SimKD: projector and the teacher's classifier, +239,716 parameters, replace its own head
```

A last convolution that only widens the map for a classifier (MobileNet, EfficientNet, ShuffleNetV2) has no use any more and is left out, as it is without effect in the release. **Compare accuracies with those of students of the same size.** Of a wide teacher, the projector can be many times the student:

| networks | parameters | with SimKD | multiply-adds | with SimKD |
|---|---:|---:|---:|---:|
| `res110_res20` | 278,324 | 291,892 | 40.8 M | 41.7 M |
| `res110_res32` | 472,756 | 486,324 | 69.1 M | 70.0 M |
| `res32x4_res8x4` | 1,233,540 | 1,447,556 | 177.1 M | 190.7 M |
| `res32x4_shufflenetv1` | 949,258 | 1,182,986 | 38.7 M | 43.5 M |
| `res32x4_shufflenetv2` | 1,355,528 | 1,042,184 | 44.5 M | 40.7 M |
| `res50_mobilenetv2` | 812,836 | 12,388,644 | 6.5 M | 52.6 M |
| `res50_vgg8` | 3,965,028 | 16,185,444 | 96.2 M | 289.3 M |
| `res56_res20` | 278,324 | 291,892 | 40.8 M | 41.7 M |
| `vgg13_mobilenetv2` | 812,836 | 1,292,580 | 6.5 M | 8.7 M |
| `vgg13_vgg8` | 3,965,028 | 4,819,044 | 96.2 M | 109.8 M |
| `wrn40-2_shufflenetv1` | 949,258 | 973,066 | 38.7 M | 40.3 M |
| `wrn40-2_wrn16-2` | 703,284 | 757,044 | 101.1 M | 104.5 M |
| `wrn40-2_wrn40-1` | 569,780 | 625,844 | 83.3 M | 86.4 M |

For 100 classes and an image of 32 x 32 (`icd_mmrazor.export.latency.multiply_adds`). Larger `factor`s make the projector smaller: `--cfg-options model.distiller.factor=8`.

## The benchmark's form

- That of the authors' code ([DefangChen/SimKD](https://github.com/DefangChen/SimKD), commit 2b389c3): weight 1, `factor=2` for every pair, no cross-entropy and no KD (`student_loss_weight=0.0`; the log shows the cross-entropy times 0). Convolutions have no bias and torch's initialisation, and the larger of the two maps is averaged to the size of the smaller one.
- The authors report 78.08 % for `res32x4_res8x4` with factor 2, 77.88 % with 4, and 76.73 % with 8 (73.09 % for their student alone), at the best epoch. Here the last epoch counts.
- The student's map is that of its last stage (160 channels in MobileNetV2, 464 in ShuffleNetV2).
- **Wide ResNets** end their last stage before a batch norm and a ReLU. What their classifier averages comes after both, so that map is compared, and projected. The map that other methods call `last_map` would be the wrong target: the projector ends in a ReLU. The release has no wide ResNet; its form for them is ours.
- In the release, the student's own classifier is decayed without ever getting a gradient. Here it is removed.

## When to choose it

- With a strong teacher of the same classes, if the student may grow: it needs no labels, and no weights of losses to be tuned. For images without labels, set `model.calculate_student_loss=False`.
- The teacher's classifier must be a linear layer on the average of a map, as in most convolutional networks. With a class token, a norm after the pooling or hidden layers in the head, SimKD is refused; use SP or ICD, which compare features. Its classes are those of the student.
- If the teacher's map has negative values (mmpretrain's Swin and EfficientNet), the projector ends without its ReLU. This is ours.
- The student must be an `ImageClassifier` whose backbone returns maps. One of timm is `dict(type='ImageClassifier', backbone=dict(type='TIMMBackbone', model_name=NAME, features_only=True))`.
- The teacher runs in every step: a [cache](../../docs/howto/teacher_cache.md) does not keep maps.
- Together with other methods (`simkd+icd`), the pooled feature and the logits of the student are those of the changed student, and cross-entropy counts with weight 1; its classifier stays the teacher's. Maps of stages are those of its backbone. This combination is ours.
- An exported student needs this package for its projector (`custom_imports` in `student.py`), but neither teacher nor distillation. Its formats for timm and torchvision do not exist.

The projector can be configured like any other part of a network. What is written into the config of a run is

```python
architecture = dict(
    type='ProjectedClassifier',
    backbone=dict(type='CIFARResNet', depth=8, stem_channels=32, base_channels=64),
    neck=dict(type='SimKDProjector', in_channels=256, out_channels=256),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=256, init_cfg=None),
)
```

and an `architecture` that is given in this form is trained as it is.

```bibtex
@inproceedings{chen2022simkd,
  title     = {Knowledge Distillation with the Reused Teacher Classifier},
  author    = {Chen, Defang and Mei, Jian-Ping and Zhang, Hailin and Wang, Can and Feng, Yan and Chen, Chun},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}
```
"""

simkd = dict(_scope_='mmrazor', type='SimKDDistiller')
