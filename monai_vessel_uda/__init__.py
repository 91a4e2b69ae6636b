"""Unsupervised adaptation of retinal vessel segmentation by diffusion, as MONAI bundles."""

__version__ = "0.1.0"
