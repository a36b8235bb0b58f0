# CES-KD: curriculum expert selection (Amara et al., arXiv 2209.07606), our reading of the abstract
r"""
paper: https://arxiv.org/abs/2209.07606, Amara, Ziaeefard, Meyer, Gross and Clark, arXiv 2022
loss: 0.1 CE + 0.9 KD, from one of several teachers for each image
features: logits
example_pair: res56_res20_cifar100

## Introduction

**This is our reading of the abstract; the paper's formulas were not at hand.** Its numbers are not reproduced here, and nothing that this configuration trains can be compared with them.

A large teacher may be too far from a small student. The abstract proposes a curriculum: of a teacher and its teaching assistants of falling capacity, a single one is selected for each image, by the difficulty in classifying it. Easy images are learned from a small network, hard ones from a large one.

With experts $E_1, \dots, E_K$ in rising capacity, $E_K$ the teacher, and $r_i$ the rank of image $i$ by its difficulty $d_i$ among the $N$ training images, 0 for the easiest:

$$d_i = \mathrm{CE}(E_K(x_i), y_i), \qquad k_i = 1 + \left\lfloor \frac{K r_i}{N} \right\rfloor$$

$$L_\text{CES-KD} = \frac1B \sum_{i=1}^{B} \left[ 0.1 \, \mathrm{CE}(z^s_i, y_i) + 0.9 \, T^2 \, \mathrm{KL}(p^{k_i}_i \Vert p^s_i) \right], \qquad p_i = \mathrm{softmax}(z_i / T)$$

## How to use it

```bash
python tools/benchmarks/train.py ceskd res56_res20_cifar100
```

This command first trains the missing teaching assistants, each by KD from the one before it, in `work_dirs/assistants`: ResNet-44 from ResNet-56, ResNet-32 from ResNet-44. Then the student learns from all three. Repeated, it continues with the assistant that it was stopped at; add `--resume` for the student. An assistant of other settings than those of the command, of a trial with few epochs, say, is refused; an expert of your own is named by `model.teachers.0.teacher_ckpt=FILE`. Distillation needs a trained teacher: see [vanilla](../vanilla/README.md).

| pair | teaching assistants |
|---|---|
| res56 / res20 | res44, res32 |
| res110 / res20 | res56, res44, res32 |
| res110 / res32 | res56, res44 |
| VGG-13 / VGG-8 | VGG-11 |
| res20 / res8 (digits) | res14 |

For other networks, train the assistants and name all experts in a config of your own:

```python
model = dict(
    type='ExpertSelectionDistill',
    teachers=[dict(teacher=..., teacher_ckpt=...), ...],  # in rising capacity, the last one the teacher
    distiller=...,  # any that compares only logits
)
```

## The benchmark's form

- What the abstract fixes: one teacher for each image, chosen by difficulty, the easier the smaller. What is ours: everything else.
- The difficulty is measured once, before the training, on each training image without augmentation (`DifficultyHook`). `model.scorer` says which expert measures it, the teacher by default; `model.score='confidence'` takes its largest probability, and needs no labels. A teacher that fits its training images ranks most of them by little more than noise; then a smaller scorer is better.
- All experts have equally many images. `model.ramp_epochs=E` admits the larger ones one after the other in the first E epochs, which reads "gradually" as over time; it is off by default.
- $T = 4$ and the weights are those of [KD](../kd/README.md).
- Any loss between logits can be used: `ceskd+dkd` adds DKD from the same experts. Losses that compare features are refused, since an expert runs on its own images alone. So are a teacher cache and `torch_compile`.

```bibtex
@article{amara2022ceskd,
  title   = {CES-KD: Curriculum-based Expert Selection for Guided Knowledge Distillation},
  author  = {Amara, Ibtihel and Ziaeefard, Maryam and Meyer, Brett H. and Gross, Warren and Clark, James J.},
  journal = {arXiv preprint arXiv:2209.07606},
  year    = {2022}
}
```
"""

ceskd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    student_loss_weight=0.1,
    losses=dict(ceskd=dict(loss=dict(type='KLDivergence', tau=4.0, loss_weight=0.9), features='logits')),
)
# together with another method, as for KD
ceskd_beside = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(ceskd=dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')),
)
ceskd_settings = dict(model=dict(type='ExpertSelectionDistill'))
# in the order of their training
ceskd_assistants = {
    'res56_res20': ['res44', 'res32'],
    'res110_res20': ['res56', 'res44', 'res32'],
    'res110_res32': ['res56', 'res44'],
    'vgg13_vgg8': ['vgg11'],
    'res20_res8': ['res14'],
}
