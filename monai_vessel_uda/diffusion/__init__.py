"""Diffusion primitives: noise schedules, samplers over explicit timestep pairs, the mask-conditioned network."""

from .ddim import generate, generation_pairs, inversion_pairs, invert, sample_ancestral, timestep_grid
from .dpm_solver import generate_2m
from .moving_average import MovingAverage
from .network import MaskConditionedUNet, StackedInputUNet, stack_inputs
from .schedule import NoiseSchedule

__all__ = [
    "MaskConditionedUNet",
    "MovingAverage",
    "NoiseSchedule",
    "StackedInputUNet",
    "generate",
    "generate_2m",
    "generation_pairs",
    "inversion_pairs",
    "invert",
    "sample_ancestral",
    "stack_inputs",
    "timestep_grid",
]
