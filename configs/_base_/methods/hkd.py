# HKD: heterogeneous distillation by information flow (Passalis et al., CVPR 2020)
r"""
paper: https://arxiv.org/abs/2005.00727, Passalis, Tzelepi and Tefas, CVPR 2020
loss: CE + HKD; the maps' weight starts at 100 and is multiplied by 0.7 each epoch
features: all maps, the pooled feature

## Introduction

How much each layer of a network tells about the classes is its information flow.
The student should have the flow of its teacher. In practice this means that the images of a batch have the same neighbours in each layer $l$ of both networks.
Two kernels of the flattened features $x_i$ say how close two images are, the cosine and Student's t:

$$K_\text{c}(i, j) = \frac{1 + \cos(x_i, x_j)}{2}, \qquad K_\text{t}(i, j) = \frac{1}{1 + \lVert x_i - x_j \rVert}, \qquad p_K(j \mid i) = \frac{K(i, j)}{\sum_k K(i, k)}$$

The loss of a layer is Jeffreys' divergence, which is symmetric, of the teacher's probabilities $p$ and the student's $q$, summed over the kernels:

$$L_l = \frac1{B^2} \sum_{K} \sum_{i,j} \bigl( p_K(j \mid i) - q_K(j \mid i) \bigr) \bigl( \log p_K(j \mid i) - \log q_K(j \mid i) \bigr)$$

Connections form early in training, so inner layers are weighted heavily in the first epochs and less and less afterwards; in epoch $k = 0, 1, \ldots$

$$L = L_\text{last} + 100 \cdot 0.7^k \sum_{l < \text{last}} L_l$$

If the two networks differ too much for their layers to correspond, the student learns from an auxiliary teacher instead. This is the student's own architecture with twice the width, which was trained beforehand on the teacher's last layer.

## The benchmark's form

Published are experiments without labels, which are measured by retrieval. With cross-entropy, the form is ours:

- The paper adds cross-entropy for classification. Its weight is not in the released code, and the paper's text was not at hand.
- The mean over $B^2$ pairs is about 0.001, which is negligible next to cross-entropy. Here the sum over $j$ is averaged over the images (`reduction='batchmean'`), $B$ times as much; this is the scale of the paper's sums. The weights 100 and 1 stay.
- The last layer is the pooled feature, the inner ones are the maps of all stages, whole. If one network has more stages, those at equal distances are compared.

## The published protocol

ResNet-18 teaches CNN-1, three convolutions and 15,050 parameters, on CIFAR-10. In order:

```bash
python tools/train.py configs/vanilla/preact18_cifar10.py          # the teacher, 50 + 30 epochs of cross-entropy
python tools/train.py configs/vanilla/cnn1-a_cifar10.py            # the auxiliary teacher, 50 + 30 epochs of the same
python tools/train.py configs/hkd/hkd_preact18_cnn1-a_cifar10.py   # it learns the teacher's last layer, 30 + 10 epochs
python tools/train.py configs/hkd/hkd_cnn1-a_cnn1_cifar10.py       # the student learns all of its layers, 50 epochs
python tools/train.py configs/vanilla/cnn1_cifar10.py              # the baseline: the student alone, 50 epochs
```

Each ends with its measurement, `RetrievalPrecision`: the 10,000 test images search the 50,000 training images by their pooled features.

[The results](../../docs/results.md#hkd-under-its-published-protocol) have the published table next to ours. With the authors' own auxiliary teacher, CNN-1 gets 49.60 % mAP (Euclidean) here and 49.20 % in their table; alone, it gets 35.66 and 35.30 %.

## What is known, and how surely

- The loss, the weights, the networks, the protocol and the metric are those of the authors' code. The loss and its gradients agree with it to eight digits, and so do the weights of the student after three epochs of their training.
- Students and auxiliary teachers learn from a teacher without cross-entropy. Their classifiers are not trained, so their accuracy says nothing.
- The paper sums over pairs of different images; the code has each image among its own neighbours, and takes the mean. The code is followed.
- The authors' training makes a new Adam in each epoch, whose averages start again: `default_hooks.loss_schedule.fresh_optimizer=True`. It also makes a new one when the teachers' learning rate drops.
- The gradient of the released code is NaN for a feature that is all zero, as a ReLU may give. Here such a feature gets no gradient from the cosine.
- The cosine kernel is at least $10^{-6}$ here. That of two features of opposite directions may be rounded to 0 otherwise, whose logarithm is infinite.
- In single precision, the released distances lose digits by $\lVert a \rVert^2 + \lVert b \rVert^2 - 2 \langle a, b \rangle$, and that of an image to itself is not 0. Here features are centred first, which changes nothing else.
- The released metric interpolates the precision only in the first 128 ranks, the size of its batches of queries, where all ranks were meant. The published numbers have this; `RetrievalPrecision(batch_size=...)` sets it.
- In the teacher's blocks without a convolution in the shortcut, the released code adds the activated input, not the input.
- The paper's other data sets and its table of classification are not in the code.

```bibtex
@inproceedings{passalis2020heterogeneous,
  title     = {Heterogeneous Knowledge Distillation using Information Flow Modeling},
  author    = {Passalis, Nikolaos and Tzelepi, Maria and Tefas, Anastasios},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2020}
}
```
"""

hkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        flow=dict(
            loss=dict(type='InformationFlowLoss', reduction='batchmean'),
            features='maps',
            weight_schedule=dict(type='Exponential', start_factor=100.0, gamma=0.7),
        ),
        last=dict(loss=dict(type='InformationFlowLoss', reduction='batchmean'), features='pooled'),
    ),
)
