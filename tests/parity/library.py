"""monai-generative as an independent implementation to compare with."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from monai.utils import IgniteInfo

NETWORK = {
    "channels": (8, 16),
    "attention_levels": (False, False),
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "norm_num_groups": 4,
}
"""What ``TINY`` makes of ``generator_def``; its blocks of 2 x 2 pixels are 4 channels."""


@cache
def monai_generative():
    """Its network and its scheduler, or a skipped test where the extra ``generative`` is not installed.

    Version 0.2.3 imports ``IgniteInfo`` from ``monai.config``, where MONAI no longer has it. The name is put there
    while the package is imported, and taken away again.
    """
    pytest.importorskip(
        "generative", reason="needs monai-generative: pip install -c constraints.txt -e '.[generative]'"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai.config.IgniteInfo", IgniteInfo, raising=False)
        from generative.networks.nets import DiffusionModelUNet
        from generative.networks.schedulers import DDIMScheduler
    return SimpleNamespace(DiffusionModelUNet=DiffusionModelUNet, DDIMScheduler=DDIMScheduler)


def generative_unet(in_channels, out_channels=1, *, channels, seed=0, **definition):
    """Its network in evaluation mode, with random numbers in all weights (its last layer starts at zero)."""
    network = monai_generative().DiffusionModelUNet(
        spatial_dims=2, in_channels=in_channels, out_channels=out_channels, num_channels=channels, **definition
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.3 * noise if parameter.ndim == 1 else noise / parameter[0].numel() ** 0.5
    return network.eval()
