# EGA: embedding graph alignment (Ma et al., BMVC 2022)
r"""
paper: https://arxiv.org/abs/2211.13264, Ma, Chen and Akata, BMVC 2022
loss: CE + 0.8 nodes + 0.24 edges
features: the pooled feature, embedded

## Introduction

The images of a batch are the nodes of a graph, and the Pearson correlations between their embeddings are its edges.
The student's graph should have the teacher's edges, and each of its nodes should match the teacher's node of the same image, and no other. With the correlations $E$ within a network and $N$ between both:

$$L_\text{EGA} = 0.8 \lVert N - I \rVert_F + 0.24 \lVert E_t - E_s \rVert_F, \qquad N_{ij} = \rho(v_i, u_j), \quad E_{t,ij} = \rho(v_i, v_j), \quad E_{s,ij} = \rho(u_i, u_j)$$

These are norms: not squared, and not divided by the number of images.

## The benchmark's form

Nobody has published EGA on these pairs. There are two sources:

- The authors ([yccm/EGA](https://github.com/yccm/EGA), 0963f8e) distil a frozen CLIP. Linear layers embed both features with width 256; weights 0.8 and 0.24 (0.3 in the script for a ResNet-101). The preset has these layers and weights.
- The CIFAR code of [giakoumoglou/distillers](https://github.com/giakoumoglou/distillers) (a2ee80b) compares the pooled features themselves, with weights 1 and 0.3. It fails if their widths differ, as in seven of the thirteen pairs, and has no results. `losses=dict(ega=dict(loss=dict(type='EGALoss', node_weight=1.0, edge_weight=0.3), features='pooled'))` is this form; different widths are refused.

Two things of the first source are not in the preset. There, the student classifies from its embedding, so that its architecture changes; here, the embedding is dropped after the training. And there, the teacher's linear layer learns to classify, without a gradient of EGA; here it keeps its initial weights, a random projection, which roughly preserves the correlations of the features.

An image whose embedding is constant correlates with none. The releases give NaN.

## When to choose it

Choose it for a teacher without a classifier, such as a self-supervised one. It needs pooled features only, of any widths, and neither labels nor positions. It compares the images of a batch within a process, and a batch of one image teaches nothing. The norms grow with the number of images, so the weights belong to a batch size.

```bibtex
@inproceedings{ma2022distilling,
  title     = {Distilling Knowledge from Self-Supervised Teacher by Embedding Graph Alignment},
  author    = {Ma, Yuchen and Chen, Yanbei and Akata, Zeynep},
  booktitle = {British Machine Vision Conference},
  year      = {2022}
}
```
"""

ega = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    # no gradient of EGA reaches the teacher's embedding, as published
    frozen=['teacher_embedding'],
    connectors=dict(teacher_embedding=dict(type='LinearProjection', out_features=256)),
    losses=dict(
        ega=dict(
            loss=dict(type='EGALoss'),
            features='pooled',
            student_connector=dict(type='LinearProjection', out_features=256),
            teacher_connector='teacher_embedding',
        )
    ),
)
