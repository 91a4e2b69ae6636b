"""Training losses that MONAI lacks."""

from .vessel_weighted_noise import VesselWeightedNoiseLoss, vessel_weighted_noise_loss

__all__ = ["VesselWeightedNoiseLoss", "vessel_weighted_noise_loss"]
