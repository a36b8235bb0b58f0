# FT: factor transfer (Kim et al., NeurIPS 2018); starts with a stage of 30 epochs
r"""
paper: https://arxiv.org/abs/1802.04977, Kim, Park and Kwak, NeurIPS 2018
loss: reconstruction, then CE + 200 FT
features: the last feature map

## Introduction

The teacher's last map is first paraphrased into fewer channels, which are easier to learn. The paraphraser is an autoencoder that is trained first and then frozen. Its code, with half as many channels, is the teacher's factor $P$.
A translator on the student's last map, trained with the student, computes the student's factor $S$, which should match $P$.
With the normalised attention map $Q$ of [AT](../at/README.md):

$$L_\text{FT} = \frac{1}{BHW} \sum_{i=1}^{B} \lVert Q(S_i) - Q(P_i) \rVert_1$$

## The benchmark's form

- An initial stage of 30 epochs has no task loss; the schedule of 240 epochs follows, so `max_epochs` is 270.
- The initial stage trains the paraphraser alone: the mean squared error of its reconstruction, at a learning rate of 0.01 (0.05 if the student is VGG-8).
- Afterwards FT has weight 200, in addition to cross-entropy. The factors are compared by their maps $Q$. The paper compares the normalised factors themselves.
- If two maps differ in size, the larger one is average-pooled to the size of the smaller.

```bibtex
@inproceedings{kim2018paraphrasing,
  title     = {Paraphrasing Complex Network: Network Compression via Factor Transfer},
  author    = {Kim, Jangho and Park, SeongUk and Kwak, Nojun},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {31},
  year      = {2018}
}
```
"""

ft = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    initial_epochs=30,
    initial_lr=0.01,
    frozen=['paraphraser'],
    connectors=dict(paraphraser=dict(type='FTParaphraser')),
    losses=dict(
        paraphraser=dict(
            stage='initial',
            loss=dict(type='L2Loss', normalize=False, div_element=True),
            inputs=dict(
                s_feature=dict(network='teacher', feature='last_map', connector='paraphraser', method='reconstruct'),
                t_feature=dict(network='teacher', feature='last_map'),
            ),
        ),
        ft=dict(
            loss=dict(type='FactorTransferLoss', loss_weight=200.0),
            features='last_map',
            student_connector=dict(type='FTTranslator'),
            teacher_connector='paraphraser',
        ),
    ),
)
