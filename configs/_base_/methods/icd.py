# ICD: Invariant Consistency Distillation (arXiv 2407.11802), which its authors now call DCD
r"""
paper: https://arxiv.org/abs/2407.11802, Giakoumoglou and Stathaki, arXiv 2024
loss: CE + ICD
features: the pooled feature, embedded
also_called: DCD

## Introduction

ICD asks for two things within a batch. The student's embedding of an image should be closest to the teacher's embedding of the same image (contrastive). And the similarities should look the same from the student to the teacher as from the teacher to the student (invariance).
For a batch of $B$ images with student features $s$ and teacher features $t$ (pooled, before the classifier):

$$u_i = \frac{W_s s_i + b_s}{\lVert W_s s_i + b_s \rVert}, \quad v_i = \frac{W_t t_i + b_t}{\lVert W_t t_i + b_t \rVert}, \quad Z_{ij} = \tau \langle u_i, v_j \rangle + b, \quad \tau = \min(e^{\theta}, 10)$$

$$p_i(j) = \frac{e^{Z_{ij}}}{\sum_k e^{Z_{ik}}}, \qquad q_i(j) = \frac{e^{Z_{ji}}}{\sum_k e^{Z_{ki}}}$$

$$L_\text{contrastive} = -\frac1B \sum_i \log p_i(i), \qquad L_\text{invariance} = \frac1B \sum_i \mathrm{KL}(q_i \Vert p_i), \qquad L_\text{ICD} = L_\text{contrastive} + \tfrac12 L_\text{invariance}$$

The embeddings ($W_s, W_t, b_s, b_t$), the log temperature $\theta$ (starts at 1) and the bias $b$ (starts at 0) are learned with the student. No memory is needed.
A softmax ignores a constant, so $b$ has no effect; it is there because the published method has it.
The gradient flows through both $p$ and $q$.

**ICD or DCD?** Since November 2024 the authors call the method DCD, Discriminative and Consistent Representation Distillation. The objective is the same, and the tools accept `dcd` for `icd`. The first version of the paper is called "Invariant Consistency for Knowledge Distillation", the second "Invariant Causal Knowledge Distillation in Neural Networks".
In [their code](https://github.com/giakoumoglou/distillers), the training scripts of November 2024 (a6bed43) offer DCD. Those of 3 March 2025 (a2ee80b) do not.

## The benchmark's form

- Weight 1 and embeddings of width 128. ICD+KD adds KD at temperature 4 with weight 1.
- The negatives are the other images of the batch of 64.

What does each setting of ICD do, and how does ICD compare with seven other methods? See our short study on CIFAR-10 ([results](../../docs/results.md)).

## How to use it

```bash
python tools/train.py configs/icd/icd_res32x4_res8x4_cifar100.py      # ICD
python tools/train.py configs/icd/icd-kd_res32x4_res8x4_cifar100.py   # ICD+KD
python tools/benchmarks/train.py icd PAIR      # on any pair that it fits; --list shows them
python tools/benchmarks/train.py icd+kd PAIR
```

Distillation needs a trained teacher: see [vanilla](../vanilla/README.md).

## On ImageNet

Put the images into `data/imagenet`, in the layout of mmpretrain's `ImageNet`: `train/CLASS/*.JPEG`, and `val/CLASS/*.JPEG` or `val/*.JPEG` with `meta/val.txt`. The teacher's weights are downloaded from mmpretrain's model zoo.

```bash
bash tools/dist_train.sh configs/icd/icd_resnet34_resnet18_8xb32_in1k.py 8       # ResNet-34 -> ResNet-18
bash tools/dist_train.sh configs/icd/icd_resnet50_mobilenet-v2_8xb32_in1k.py 8   # ResNet-50 -> MobileNetV2
```

For ICD+KD, replace `icd_` by `icd-kd_`. The schedule is mmpretrain's for its ResNets: 100 epochs of SGD with weight decay 1e-4 and a learning rate of 0.1 for 256 images (8 processes of 32), divided by 10 after epochs 30, 60 and 90. With another number of processes, add `--auto-scale-lr`.
The tests run these configs on a few images. We have not trained any of them.

```bibtex
@misc{giakoumoglou2024discriminative,
  title  = {Discriminative and Consistent Representation Distillation},
  author = {Nikolaos Giakoumoglou and Tania Stathaki},
  year   = {2024},
  eprint = {2407.11802},
  archivePrefix = {arXiv}
}
```
"""

icd = dict(_scope_='mmrazor', type='ICDDistiller')
