# OFA: the adaptive-target loss of one-for-all KD, on the final logits only (Hao et al., NeurIPS 2023)
r"""
paper: https://arxiv.org/abs/2310.19444, Hao et al., NeurIPS 2023
loss: CE + OFA
features: logits

## Introduction

OFA-KD was made for teachers and students of different kinds, such as a transformer and a CNN. Its loss takes the teacher's probabilities for targets and, for $\varepsilon > 1$, raises that of the correct class, most where the teacher is sure of it, so that the student is not misled where the teacher is not.
With $p = \mathrm{softmax}(z^t / T)$, $q = \mathrm{softmax}(z^s / T)$ and the one-hot label $h$ of each of $B$ images:

$$L_\text{OFA} = - \frac1B \sum_{i=1}^{B} \sum_c \left( (p_{ic} + h_{ic})^{\varepsilon} - h_{ic} \right) \log q_{ic}$$

**This is one part of OFA-KD.** In full, each of the four stages of the student gets a small head that predicts the classes, and each head is compared by the same loss with the teacher's final logits. These heads are not implemented here, so accuracies of this method are not those of the paper.

## The benchmark's form

- $T = 1$, $\varepsilon = 1$, weight 1 for cross-entropy and loss: the defaults of the release (Hao840/OFAKD, commit f7bb896). The paper calls $\varepsilon$ gamma.
- On ImageNet, $\varepsilon = 1.5$, the authors' setting for DeiT-T to ResNet-18. On CIFAR-100 they give 1 for Swin-T to ResNet-18. They used none of the pairs of this benchmark.
- The release takes the logarithm of a softmax, which is infinite in float32 if two logits of the student differ by about 104. Here it stays finite, and all other values are the same.
- The authors' recipe differs, too: 300 epochs, batches of 128, weight decay 2e-3, and label smoothing of 0.1 for CNNs.

## When to choose it

- With a teacher that is less accurate than it is confident, or of another kind than the student, and with labels. `ofa+METHOD` adds a method that compares features.
- **With $\varepsilon = 1$ the label cancels**, and the loss is the cross-entropy with the teacher's probabilities. To use what is new in it, set `model.distiller.losses.ofa.loss.eps=1.5`.
- It needs the label of each image. Mixed images (Mixup) count as images of the class with the largest share.
- It is a cross-entropy: it is not 0 for a student equal to its teacher, and for $\varepsilon > 1$ it still has a gradient there.

```bibtex
@inproceedings{hao2023one,
  title     = {One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation},
  author    = {Hao, Zhiwei and Guo, Jianyuan and Han, Kai and Tang, Yehui and Hu, Han and Wang, Yunhe and Xu, Chang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}
```
"""

ofa = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(ofa=dict(loss=dict(type='OFALoss', eps=1.0), features='logits')),
)
# the authors' setting on ImageNet, of another pair
ofa_pairs = {
    'in1k': {'losses.ofa.loss.eps': 1.5},
}
