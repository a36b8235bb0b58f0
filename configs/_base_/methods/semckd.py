# SemCKD: cross-layer distillation with semantic calibration (Chen et al., AAAI 2021)
r"""
paper: https://arxiv.org/abs/2012.03236, Chen et al., AAAI 2021
loss: CE + 400 SemCKD
features: all feature maps

## Introduction

For each image, SemCKD learns which layers of the teacher suit each layer of the student.
Every map of the student is compared with every map of the teacher through a regressor $r_{ij}$, and attention weighs the comparisons: $G$ are the inner products of an image's map with those of all images of the batch, embedded by two linear layers and normalised.

$$q_i = \mathrm{embed}_i (G^s_i), \qquad k_j = \mathrm{embed}_j (G^t_j), \qquad \alpha_{ij} = \mathrm{softmax}_j \langle q_i, k_j \rangle$$

With $S$ maps of the student, and the mean over the $B$ images:

$$L_\text{SemCKD} = \frac{1}{B S} \sum_{b=1}^{B} \sum_{i,j} \alpha_{bij} \, \mathrm{MSE} \left( r_{ij}(F^s_{bi}), F^t_{bj} \right)$$

## The benchmark's form

- The form of the [authors' code](https://github.com/DefangChen/SemCKD) (commit ebe5db1): weight 400 (50 on ImageNet, ResNet-34 with ResNet-18), with cross-entropy of weight 1. **The published results include KD** of weight 1 ($T = 4$): they are those of `semckd+kd`.
- A regressor has three convolutions (1 x 1 to twice the teacher's width, 3 x 3, 1 x 1), the first two with batch norm and ReLU. The larger of two maps is averaged to the size of the smaller one.
- The embeddings read one number for each image of a batch, so their width is the batch size. Our tools fill in `train_dataloader.batch_size`; in your own loop, set `batch_size` of the loss. A run does not resume with another batch size.
- The authors leave out the last batch of an epoch if it is smaller. Here, it is trained on; the images that it lacks have inner products of 0.
- Products of unit vectors lie between -1 and 1, so the weights of the teacher's maps differ by a factor of $e^2 \approx 7.4$ at most.

## When to choose it

- For networks of different families, where it is not clear which stages correspond.
- It has a regressor for each pair of maps: with four maps each, 16. They are trained with the student and dropped afterwards, but make a step slower. With a ResNet-50 as the teacher they have more than a billion weights, so choose another method for `res50_*`.
- With several processes, the images of each are compared among themselves, and the embeddings have the width of its batch.

```bibtex
@inproceedings{chen2021cross,
  title     = {Cross-Layer Distillation with Semantic Calibration},
  author    = {Chen, Defang and Mei, Jian-Ping and Zhang, Yuan and Wang, Can and Wang, Zhe and Feng, Yan and Chen, Chun},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2021}
}
```
"""

semckd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        semckd=dict(
            # our tools add the size of the batches
            loss=dict(type='SemCKDLoss', loss_weight=400.0),
            inputs=dict(
                s_features=dict(network='student', feature=['maps']),
                t_features=dict(network='teacher', feature=['maps']),
            ),
        ),
    ),
)
semckd_pairs = {'in1k': {'losses.semckd.loss.loss_weight': 50.0}}
