"""Diffusion primitives: noise schedules, samplers over explicit timestep pairs, the mask-conditioned network."""

from .ddim import generate, generation_pairs, inversion_pairs, invert, sample_ancestral, timestep_grid
from .network import MaskConditionedUNet
from .schedule import NoiseSchedule

__all__ = [
    "MaskConditionedUNet",
    "NoiseSchedule",
    "generate",
    "generation_pairs",
    "inversion_pairs",
    "invert",
    "sample_ancestral",
    "timestep_grid",
]
