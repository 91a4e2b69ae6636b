r"""Noise prediction loss with additional supervision in vascular regions (eq. 3 and sec. 2.3).

.. math::
    L = w_a \operatorname{mean}\big((\epsilon-\hat\epsilon)^2\big)
      + w_v \frac{\sum D\,(\epsilon-\hat\epsilon)^2}{\sum D + 1},
    \qquad D = \text{mask dilated by } r \text{ pixels}.

The text asks for "additional supervision on noise prediction in vascular regions" without a formula; the authors'
release uses the one above with :math:`w_a = 0.5`, :math:`w_v = 1`, r = 2, in every stage. With
:math:`w_a = 1, w_v = 0` it is eq. 3. Squared errors may have a weight for each patch, such as that of its timestep:
:func:`min_snr_weight`.
"""

from collections.abc import Sequence

import ignite.distributed as idist
import torch.nn.functional as F
from torch import Tensor, nn


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Grey dilation by a cube of side 2 * radius + 1; mask of shape (batch, channel, spatial…), 1 to 3 dims."""
    if radius == 0:
        return mask
    pool = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}[mask.ndim]
    return pool(mask, kernel_size=2 * radius + 1, stride=1, padding=radius)


def min_snr_weight(signal_to_noise: Tensor, gamma: float) -> Tensor:
    r"""Weight of a timestep in the loss of the noise, min-SNR-:math:`\gamma` (Hang et al., ICCV 2023).

    .. math::
        w_t = \min(\mathrm{SNR}_t, \gamma) / \mathrm{SNR}_t

    In nearly clean images the noise is hard to tell, however long one trains: those timesteps have most of the loss and
    little to teach. With this weight the timesteps at which an image takes its shape are learnt sooner.

    Args:
        signal_to_noise: ratio of powers, any shape.
        gamma: ratio above which timesteps weigh less; 5 in the paper.

    Returns:
        Weights in (0, 1], shape of ``signal_to_noise``.
    """
    return signal_to_noise.clamp(max=gamma) / signal_to_noise


def vessel_weighted_noise_loss(
    prediction: Tensor,
    noise: Tensor,
    mask: Tensor,
    overall_weight: float = 0.5,
    vessel_weight: float = 1.0,
    dilation: int = 2,
    patch_weight: Tensor | None = None,
) -> Tensor:
    r"""Squared error of the noise, overall and again in the neighbourhood of vessels.

    Of several processes each gets the loss of its part of a batch, such that their mean is the loss of the whole:
    :math:`\sum D` counts the vessels of all parts, since a part with few of them must not weigh as much as the others.

    Args:
        prediction: predicted noise, shape (batch, 1, \*spatial).
        noise: the noise that was added, same shape.
        mask: vessel mask in [0, 1], same shape; where it is all zero only the overall term remains.
        overall_weight: :math:`w_a`.
        vessel_weight: :math:`w_v`.
        dilation: r, pixels.
        patch_weight: weight of each patch's squared errors, shape (batch,); 1 by default.

    Returns:
        Scalar loss.
    """
    squared_error = (prediction - noise) ** 2
    if patch_weight is not None:
        squared_error = squared_error * patch_weight.view(-1, *[1] * (noise.ndim - 1))
    loss = overall_weight * squared_error.mean()
    if vessel_weight:
        near_vessel = dilate(mask.to(squared_error), dilation)
        size = (idist.all_reduce(near_vessel.sum()) + 1) / idist.get_world_size()
        loss = loss + vessel_weight * (squared_error * near_vessel).sum() / size
    return loss


class VesselWeightedNoiseLoss(nn.Module):
    """:func:`vessel_weighted_noise_loss` with its weights, as a module for bundle configs."""

    def __init__(self, overall_weight: float = 0.5, vessel_weight: float = 1.0, dilation: int = 2) -> None:
        super().__init__()
        self.overall_weight = overall_weight
        self.vessel_weight = vessel_weight
        self.dilation = dilation

    def forward(self, prediction: Tensor, target: Sequence[Tensor]) -> Tensor:
        """Scalar loss of a prediction against (noise, mask), or (noise, mask, weight of each patch)."""
        noise, mask, *patch_weight = target
        return vessel_weighted_noise_loss(
            prediction, noise, mask, self.overall_weight, self.vessel_weight, self.dilation, *patch_weight
        )
