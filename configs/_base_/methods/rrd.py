# RRD: relational representation distillation (arXiv 2407.12073), with a queue of recent teacher features
r"""
paper: https://arxiv.org/abs/2407.12073, Giakoumoglou and Stathaki, arXiv 2024
loss: CE + RRD
features: the pooled feature, embedded

## Introduction

The similarities of an image to many others form a distribution, in which the student should match the teacher.
The others are the teacher's embeddings of recent batches, kept in a queue of $N$ entries $m$.
With normalised embeddings $u$ of the student and $v$ of the teacher:

$$p_i = \mathrm{softmax}_n (\langle u_i, m_n \rangle / \tau_s), \qquad q_i = \mathrm{softmax}_n (\langle v_i, m_n \rangle / \tau_t), \qquad L_\text{RRD} = - \frac1B \sum_{i=1}^{B} \sum_{n=1}^{N} q_{in} \log p_{in}$$

## The benchmark's form

- Weight 1, $N = 16384$, linear embeddings of width 128, and the settings of 2024:

| form | code of the authors | $\tau_s$ | $\tau_t$ | the batch enters the queue | results |
|---|---|---:|---:|---|---|
| 2024, the preset `rrd` | July to November 2024 (ee559b3 to a6bed43) | 0.04 | 0.1 | after the comparison | the published tables below |
| 2025, the defaults of `RRDLoss` | from February 2025 (a2ee80b) | 0.1 | 0.02 | before it, so each image is also compared with itself | none published; [ours on CIFAR-10](../../docs/results.md) |

- In the first form, the teacher's distribution is softer than the student's; in the second, sharper. To use the second form on any pair, add `--cfg-options model.distiller.losses.rrd.loss.student_temperature=0.1 model.distiller.losses.rrd.loss.teacher_temperature=0.02 model.distiller.losses.rrd.loss.enqueue=before`.
- The docstring in the authors' code of 2025 has the two temperatures the other way round; what runs is in the table.
- No gradient flows through $q$ or the queue, so the teacher's embedding keeps its initial weights.
- The authors' code of 2025 also has a form with two memories of all images, as in [CRD](../crd/README.md), `RRDMemoryLoss`. No results of it are published. It applies the exponential twice: to the similarities, and again in the softmax, to these exponentials divided by $Z$. With 50,000 images and 16,384 negatives, the targets are uniform to five digits at first. Once the teacher's embedding has a similarity of 0.9 to the stored one of the same image, they are one-hot, at either temperature. It is included for comparison, not for use. `--cfg-options model.distiller.losses.rrd.loss._delete_=True model.distiller.losses.rrd.loss.type=RRDMemoryLoss` trains it; it needs labels and positions.
- How many entries count depends on $\tau_t$. For random embeddings of width 128, the teacher's distribution over the queue is as wide as one over 11,000 entries at 0.1, but over 20 at 0.02 (the exponential of its mean entropy). With `enqueue='before'`, the image's own entry, of similarity 1, takes nearly all of it at 0.02.

## When to choose it

- For small batches, or images without labels: it compares an image with a queue of recent ones, and reads neither labels nor positions.
- The two forms have different settings, and only the first has published results: say which one you ran.
- Early on, most of the queue is random. It is full after 256 batches of 64.

```bibtex
@misc{giakoumoglou2024relational,
  title  = {Relational Representation Distillation},
  author = {Nikolaos Giakoumoglou and Tania Stathaki},
  year   = {2024},
  eprint = {2407.12073},
  archivePrefix = {arXiv}
}
```
"""

rrd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    # no gradient reaches the teacher's embedding: it keeps its initial weights, as published
    frozen=['teacher_embedding'],
    connectors=dict(teacher_embedding=dict(type='LinearProjection')),
    losses=dict(
        rrd=dict(
            # the form of 2024, which the published tables were made with; the defaults of RRDLoss are those of 2025
            loss=dict(type='RRDLoss', student_temperature=0.04, teacher_temperature=0.1, enqueue='after'),
            features='pooled',
            student_connector=dict(type='LinearProjection'),
            teacher_connector='teacher_embedding',
        )
    ),
)
