"""Which patches have sure pseudo-masks."""

import pytest
import torch

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods.confidence import ConfidentCentres


@pytest.fixture
def half_sure():
    """Vessels everywhere alike, certain on the left and doubtful on the right."""
    probability = torch.zeros(1, 32, 64)
    probability[:, 8::16, :32] = 0.99
    probability[:, 8::16, 32:] = 0.55
    admissible = torch.zeros(1, 32, 64, dtype=torch.uint8)
    admissible[:, 8:25, 8:57] = 1
    return probability, (probability > 0.5).float(), admissible


def test_the_surest_patches_are_kept(half_sure):
    chosen = ConfidentCentres((16, 16), share=0.4)(*half_sure)
    allowed = half_sure[2] > 0
    assert chosen.dtype == torch.uint8
    assert not chosen[~allowed].any()
    assert 0.38 < chosen[allowed].float().mean() < 0.7, "ties are kept"
    assert chosen[0, :, 8:24].sum() == allowed[0, :, 8:24].sum(), "patches that lie on the left"
    assert chosen[0, :, 41:].sum() == 0, "patches that lie on the right"


def test_empty_patches_are_sure_only_where_nothing_is_probable():
    probability = torch.zeros(1, 16, 48)
    probability[:, :, 24:] = 0.3  # nothing marked, but much that might be
    admissible = torch.zeros_like(probability)
    admissible[:, 8, 8:41] = 1
    chosen = ConfidentCentres((16, 16), share=0.25)(probability, torch.zeros_like(probability), admissible)
    assert chosen[0, 8, 8:17].all()
    assert chosen[0, 8, 17:].sum() == 0


def test_all_patches_are_kept_where_all_are_asked_for(half_sure):
    assert torch.equal(ConfidentCentres((16, 16))(*half_sure), half_sure[2])
    nowhere = torch.zeros_like(half_sure[2])
    assert ConfidentCentres((16, 16), 0.5)(*half_sure[:2], nowhere).sum() == 0


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_shares_that_cannot_be(share):
    with pytest.raises(InputError, match="confident_share: expected above 0 and at most 1"):
        ConfidentCentres((16, 16), share)
