"""Training losses that MONAI lacks."""

from .vessel_weighted_noise import VesselWeightedNoiseLoss, min_snr_weight, vessel_weighted_noise_loss

__all__ = ["VesselWeightedNoiseLoss", "min_snr_weight", "vessel_weighted_noise_loss"]
