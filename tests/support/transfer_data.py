"""What a linear probe needs: small STL-10 and Tiny ImageNet folders, laid out as the downloaded ones, and a student."""

from pathlib import Path

import numpy as np
import torch
from helpers import CONFIGS
from mmengine.config import Config
from mmrazor.registry import MODELS
from PIL import Image

WNIDS = ('n02124075', 'n01443537', 'n07747607')  # not sorted, as in the downloaded file


def pictures(labels: np.ndarray, side: int) -> np.ndarray:
    """Return noisy images, N x side x side x 3, with a square whose colour depends on the label."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 196, (10, 3), dtype=np.uint8)
    images = generator.integers(0, 60, (len(labels), side, side, 3), dtype=np.uint8)
    images[:, side // 4 : -side // 4, side // 3 : -side // 4] += colours[labels][:, None, None]
    return images


def write_stl10(folder: Path, train: int = 20, test: int = 10) -> Path:
    """Write the four binary files; labels go round."""
    folder.mkdir(parents=True)
    for split, size in (('train', train), ('test', test)):
        labels = np.arange(size) % 10
        images = pictures(labels, 96)
        # pixel by pixel as the site says: channels, in each column after column
        planes = [images[..., channel].swapaxes(1, 2).reshape(size, -1) for channel in range(3)]
        (folder / f'{split}_X.bin').write_bytes(np.concatenate(planes, axis=1).tobytes())
        (folder / f'{split}_y.bin').write_bytes((labels + 1).astype(np.uint8).tobytes())
    return folder


def write_tiny_imagenet(folder: Path, each: int = 2, wnids: tuple[str, ...] = WNIDS) -> Path:
    """Write the training and validation images of a few classes; one image is grey."""
    (folder / 'val' / 'images').mkdir(parents=True)
    (folder / 'wnids.txt').write_text(''.join(f'{wnid}\n' for wnid in wnids))
    (folder / 'words.txt').write_text(''.join(f'{wnid}\tname of {wnid}, another\n' for wnid in ('n00000001', *wnids)))
    labels = np.arange(each * len(wnids)) % len(wnids)
    lines = []
    for index, (label, picture) in enumerate(zip(labels, pictures(labels % 10, 64), strict=True)):
        image, wnid = Image.fromarray(picture), wnids[label]
        if index == 0:
            image = image.convert('L')
        images = folder / 'train' / wnid / 'images'
        images.mkdir(parents=True, exist_ok=True)
        image.save(images / f'{wnid}_{index}.JPEG', quality=95)
        image.save(folder / 'val' / 'images' / f'val_{index}.JPEG', quality=95)
        lines.append(f'val_{index}.JPEG\t{wnid}\t0\t0\t62\t62\n')
    (folder / 'val' / 'val_annotations.txt').write_text(''.join(lines))
    return folder


def write_student(file: Path, architecture: dict) -> dict[str, torch.Tensor]:
    """Write a checkpoint of a distillation with random weights and its config, and return the student's weights."""
    student = MODELS.build(architecture)
    student.init_weights()
    student(torch.randn(64, 3, 32, 32))  # statistics of its batch norms
    cfg = Config(dict(model=dict(type='FrozenTeacherDistill', architecture=architecture, teacher_ckpt='gone.pth')))
    weights = student.state_dict()
    saved = {f'architecture.{name}': weight for name, weight in weights.items()}
    saved['distiller.connectors.icd_student.linear.weight'] = torch.zeros(2, 2)
    torch.save({'meta': {'cfg': cfg.pretty_text}, 'state_dict': saved}, file)
    return weights


def probe_config(name: str, data_root: Path, student: Path, work_dir: Path) -> Config:
    """Return a config of configs/transfer for one epoch without workers."""
    cfg = Config.fromfile(CONFIGS / 'transfer' / f'{name}.py')
    cfg.model.student_ckpt = str(student)
    cfg.work_dir = str(work_dir)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].num_workers = 0
        cfg[f'{split}_dataloader'].dataset.data_root = str(data_root)
        cfg[f'{split}_dataloader'].dataset.serialize_data = False  # mmengine collects garbage when it serialises
    cfg.train_dataloader.batch_size = 8
    cfg.train_cfg.max_epochs = 1
    cfg.randomness.seed = 0
    return cfg
