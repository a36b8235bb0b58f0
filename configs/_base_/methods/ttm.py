# TTM: transformed teacher matching (Zheng and Yang, ICLR 2024)
r"""
paper: https://arxiv.org/abs/2402.11148, Zheng and Yang, ICLR 2024
loss: CE + 100 TTM
features: logits

## Introduction

KD softens the predictions of both networks. TTM softens those of the teacher alone: the student, at temperature 1, should predict what the teacher predicts at temperature $1/\gamma$.
With logits $z$ of a batch of $B$ images:

$$L_\text{TTM} = \frac1B \sum_{i=1}^{B} \mathrm{KL}(p_i \Vert q_i), \qquad p_i = \mathrm{softmax}(\gamma z^t_i), \qquad q_i = \mathrm{softmax}(z^s_i)$$

To soften is to raise the probabilities to the power $\gamma$, the transform in the name. The authors show that TTM is KD with an additional term, a Rényi entropy, which regularises the student.

## The benchmark's form

- No square of the temperature multiplies the loss, which explains the large weights. Cross-entropy has weight 1.
- $\gamma$ and the weight are those of the authors for each pair ([arXiv 2402.11148](https://arxiv.org/abs/2402.11148), tables 8 to 10; code: zkxufo/TTM, commit fe457b3). `train.py` chooses them by the pair:

| teacher and student | $\gamma$ | weight |
|---|---:|---:|
| `res32x4_res8x4`, and where nothing else is known | 0.1 | 100 |
| `wrn40-2_wrn16-2` | 0.1 | 101 |
| `wrn40-2_wrn40-1` | 0.1 | 76 |
| `res56_res20`, and `res20_res8`, for which none are published | 0.3 | 7 |
| `res110_res20` | 0.2 | 8 |
| `res110_res32` | 0.1 | 33 |
| `vgg13_vgg8` | 0.1 | 45 |
| `vgg13_mobilenetv2` | 0.2 | 16 |
| `res50_mobilenetv2` | 0.2 | 20 |
| `res50_vgg8` | 0.1 | 70 |
| `res32x4_shufflenetv1` | 0.2 | 12 |
| `res32x4_shufflenetv2` | 0.4 | 40 |
| `wrn40-2_shufflenetv1` | 0.3 | 8 |

## When to choose it

- It needs logits of the same classes, and neither labels nor other images of the batch. It is as fast as KD.
- The weight must be tuned together with $\gamma$: between the pairs above it differs by a factor of 14. For ImageNet the authors give settings of [WTTM](../wttm/README.md) only.
- For $\gamma < 1$ the loss pulls a student away from the logits of its teacher even if they are equal.

```bibtex
@inproceedings{zheng2024knowledge,
  title     = {Knowledge Distillation Based on Transformed Teacher Matching},
  author    = {Zheng, Kaixiang and Yang, En-Hui},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}
```
"""

ttm = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(ttm=dict(loss=dict(type='TTMLoss', gamma=0.1, loss_weight=100.0), features='logits')),
)
ttm_pairs = {
    pair: {'losses.ttm.loss.gamma': gamma, 'losses.ttm.loss.loss_weight': weight}
    for pair, gamma, weight in (
        ('wrn40-2_wrn16-2', 0.1, 101.0),
        ('wrn40-2_wrn40-1', 0.1, 76.0),
        ('res56_res20', 0.3, 7.0),
        # not published
        ('res20_res8', 0.3, 7.0),
        ('res110_res20', 0.2, 8.0),
        ('res110_res32', 0.1, 33.0),
        ('vgg13_vgg8', 0.1, 45.0),
        ('vgg13_mobilenetv2', 0.2, 16.0),
        ('res50_mobilenetv2', 0.2, 20.0),
        ('res50_vgg8', 0.1, 70.0),
        ('res32x4_shufflenetv1', 0.2, 12.0),
        ('res32x4_shufflenetv2', 0.4, 40.0),
        ('wrn40-2_shufflenetv1', 0.3, 8.0),
    )
}
