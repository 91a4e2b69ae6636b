import numpy as np
import pytest

from monai_vessel_uda.data.phantoms import fundus_phantom, octa_phantom
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.field_of_view import detect_field_of_view
from monai_vessel_uda.transforms.polarity import line_balance, polarity_from_vesselness


def test_vesselness_tells_fundus_from_octa_without_masks():
    fundus = [fundus_phantom(np.random.default_rng(seed), 160)[0] for seed in range(3)]
    green = [image[..., 1].astype(np.float32) for image in fundus]
    polarity, evidence = polarity_from_vesselness(green, [detect_field_of_view(image) for image in fundus])
    assert polarity == "dark" and evidence["balance"] < -0.2
    octa = [octa_phantom(np.random.default_rng(seed), 96)[0].astype(np.float32) for seed in range(3)]
    polarity, evidence = polarity_from_vesselness(octa)
    assert polarity == "bright" and evidence["balance"] > 0.2


def test_negation_negates_the_balance():
    octa = octa_phantom(np.random.default_rng(0), 96)[0].astype(np.float32)
    everywhere = np.ones(octa.shape, bool)
    assert line_balance(-octa, everywhere) == pytest.approx(-line_balance(octa, everywhere), abs=1e-6)


def test_flat_images_are_refused():
    with pytest.raises(InputError, match="polarity"):
        polarity_from_vesselness([np.zeros((64, 64), np.float32)])
