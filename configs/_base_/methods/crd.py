# CRD: contrastive representation distillation (Tian et al., ICLR 2020), with a memory of all images
r"""
paper: https://arxiv.org/abs/1910.10699, Tian, Krishnan and Isola, ICLR 2020
loss: CE + 0.8 CRD
features: the pooled feature, embedded

## Introduction

The teacher's embedding of an image should single out the student's embedding of the same image among many others, and vice versa.
The others come from a memory that holds an embedding of every training image for each network. For each image, $N$ entries of other classes are drawn as negatives.
With normalised embeddings $u$, entries $m$ of the other network's memory, $M$ training images, and a constant $Z$ that is estimated on the first batch:

$$P(u, m) = \frac{e^{\langle u, m \rangle / \tau}}{Z}, \qquad h(u, m) = \frac{P(u, m)}{P(u, m) + N / M}$$

$$L_\text{CRD} = - \frac1B \sum_{i=1}^{B} \left( \log h(u_i, m_i) + \sum_{n=1}^{N} \log (1 - h(u_i, m_n)) \right), \quad \text{for the student and for the teacher, summed}$$

## The benchmark's form

- Weight 0.8, $N = 16384$, $\tau = 0.07$, embeddings of width 128, linear and trained.
- After each batch, its entries in the memory move halfway to the new embeddings (momentum 0.5).
- The memory needs the index and the class of each training image. It is saved in the checkpoint.

## With a queue

The code of [giakoumoglou/distillers](https://github.com/giakoumoglou/distillers) of 2025 (a2ee80b) has CRD with two memories. `CRD_MomentumMemory_Loss` is CRD as above, to the last digits. `CRD_FifoMemory_Loss` is another method, MoCo's contrast (InfoNCE) with the teacher's embeddings of the last 16,384 images, without results:

```bash
python tools/train.py configs/crd/crd_res32x4_res8x4_cifar100.py --cfg-options \
    model.distiller.losses.crd.loss._delete_=True model.distiller.losses.crd.loss.type=CRDQueueLoss \
    model.distiller.losses.crd.loss.loss_weight=0.8
```

- It is sensible where CRD cannot be used: without labels, with Mixup, or with a training set too large for a memory of every image.
- Images of the same class are negatives, too.
- As released, the batch enters the queue before it is compared. So the positive is also a negative, and the loss is $\log 2$ at least.
- Only the positive has a gradient for the teacher's embedding.

## When to choose it

- For long trainings, of networks of one family or of two: with its memory it does not depend on the batch size. It needs the label and the position of each image, and memory for two embeddings of each. Mixup, images without labels and datasets without an index are refused.
- In a few hundred iterations, it has gained nothing in [our studies](../../docs/results.md).

```bibtex
@inproceedings{tian2020contrastive,
  title     = {Contrastive Representation Distillation},
  author    = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}
```
"""

crd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        crd=dict(
            loss=dict(type='ContrastiveRepresentationLoss', loss_weight=0.8),
            features='pooled',
            student_connector=dict(type='LinearProjection'),
            teacher_connector=dict(type='LinearProjection'),
        )
    ),
)
