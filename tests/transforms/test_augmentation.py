import pytest
import torch

from monai_vessel_uda.transforms.augmentation import rand_appearance


def item():
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"image": image, "label": (image > 0.5).float()}


def test_the_same_seed_changes_the_image_in_the_same_way_and_never_the_label():
    transform, original = rand_appearance(["image"], prob=1.0), item()
    first, again, other = (dict(transform.set_random_state(seed=seed)(item())) for seed in (1, 1, 2))
    assert torch.equal(torch.as_tensor(first["image"]), torch.as_tensor(again["image"]))
    assert not torch.equal(torch.as_tensor(first["image"]), torch.as_tensor(other["image"]))
    assert not torch.allclose(torch.as_tensor(first["image"]), original["image"], atol=0.05)
    assert torch.equal(first["label"], original["label"])
    assert first["image"].shape == (1, 32, 32)
    assert torch.isfinite(torch.as_tensor(first["image"])).all()


@pytest.mark.parametrize("seed", range(3))
def test_probability_zero_leaves_everything_as_it_is(seed):
    changed = rand_appearance(["image"], prob=0.0).set_random_state(seed=seed)(item())
    assert torch.equal(changed["image"], item()["image"])
