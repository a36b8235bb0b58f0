"""Schedules of the learning rate. They register in mmengine's registry, so that configs of every scope find them."""

from icd_mmrazor.engine.schedulers.warmup_cosine_lr import WarmupCosineLR

__all__ = ['WarmupCosineLR']
