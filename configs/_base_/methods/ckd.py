# CKD: comparative knowledge distillation (Wilf et al., WACV 2025), without cross-entropy
r"""
paper: https://arxiv.org/abs/2311.02253, Wilf et al., arXiv 2023, WACV 2025
loss: CKD (teacher and labels)
features: logits

## Introduction

The student learns the differences between images, not each image by itself: the logits of one image minus those of another should differ as the teacher's do, and as the labels do.
With logits $z$ ($s$ or $t$), one-hot labels $y$, and the mean over ordered pairs of images and over classes:

$$L_\text{CKD} = \mathop{\mathrm{mean}}_{i \ne j} \left( (z^s_i - z^s_j) - (z^t_i - z^t_j) \right)^2 + \mathop{\mathrm{mean}}_{i \ne j} \left( (z^s_i - z^s_j) - (y_i - y_j) \right)^2$$

The first mean is $2 \operatorname{Var}(z^s - z^t)$, twice the unbiased variance over the images of the batch, averaged over the classes, and the second one that of $z^s - y$. They are computed like this, without any pairs.
So CKD matches the logits after it has removed the mean difference.

The authors also compare groups of $a$ and $b$ images by their means. Over all groups of a batch, this multiplies the loss by $(1/a + 1/b) / 2$.

## The benchmark's form

- The form that the authors released for WACV in March 2025: the squared error, pairs of single images, weight 1 for teacher and labels, and **no cross-entropy** (`student_loss_weight=0.0`). The log shows the cross-entropy times 0.
- Pairs are those of a batch. The authors draw 100,000 comparisons of the whole training set, and pass the two groups through the student by themselves, each with its own statistics in batch norms.
- Their form of 2023 compares softened differences, by `loss=dict(type='ComparativeLoss', distance='kl', tau=4.0, groups=(2, 1))`.
- Together with another method (`ckd+icd`), cross-entropy counts with weight 1 and has the labels; CKD compares with the teacher only (`label_weight=0`). This combination is ours.

## Offsets between classes

Adding the same numbers to the logits of all images changes no difference, but it changes which class is the largest. So the loss does not learn how much larger the logits of one class are than those of another, on average: the bias of the classifier gets no gradient, and only weight decay acts on such offsets, over a long training.
In a short training they can cost much. On scikit-learn's digits (`res20_res8_digits`, 320 iterations), two students had 80.6 % and 84.6 %. With offsets for which its mean logits over the training images are those of the teacher, the first one has 96.6 %. A student trained alone has 93.2 %, and KD 96.6 % and 97.0 %.

With cross-entropy beside it, CKD is another method, which learns the offsets: `model.distiller.student_loss_weight=1.0` gave 97.4 % and 97.8 %.

## Few teacher calls

CKD was made for teachers that are expensive to ask: each training image is shown to the teacher once, and the student learns from that one answer on new views in every epoch. This is a cache of the teacher with one view of each image:

```bash
python tools/train.py configs/ckd/ckd_res32x4_res8x4_cifar100.py --cfg-options \
    model.teacher_cache.views=first model.teacher_cache.max_teacher_calls=4000 train_dataloader.dataset.indices=4000
```

- `views='first'` keeps the teacher's answer to the first view of an image that it sees. Later views of the image get that answer, which is an approximation, on purpose.
- `max_teacher_calls=N` is a limit on the images that the teacher is shown in all. The log counts them.
- `indices=N` trains on the first N images of the dataset, or on those of a list. The authors drew between 2,000 and 6,000 images at random and kept a fifth of them for validation.
- The authors trained until the third plateau of the validation accuracy, with the learning rate divided by 10 after each. Here the schedule is that of the pair, for every method.

It works in the same way with every method that compares logits or pooled features.

```bibtex
@article{wilf2023comparative,
  title   = {Comparative Knowledge Distillation},
  author  = {Wilf, Alex and Xu, Alex Tianyi and Liang, Paul Pu and Obolenskiy, Alexander and Fried, Daniel and Morency, Louis-Philippe},
  journal = {arXiv preprint arXiv:2311.02253},
  year    = {2023}
}
```
"""

ckd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    student_loss_weight=0.0,
    losses=dict(ckd=dict(loss=dict(type='ComparativeLoss'), features='logits')),
)
# together with another method: cross-entropy has the labels
ckd_beside = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(ckd=dict(loss=dict(type='ComparativeLoss', label_weight=0.0), features='logits')),
)
