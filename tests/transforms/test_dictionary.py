import numpy as np
import pytest
import torch
from PIL import Image

from monai_vessel_uda.data.phantoms import octa_phantom
from monai_vessel_uda.engines.inference import to_size
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.dictionary import (
    DropWholeFieldOfViewd,
    FieldOfViewd,
    FlattenBackgroundd,
    GreyConversiond,
    LoadRetinalImaged,
    MatchQuantilesd,
    PatchCentresd,
    ResizeToWorkingResolutiond,
    RetinalCompose,
    ScaleIntensityInFieldOfViewd,
    VesselPolarityd,
)
from monai_vessel_uda.transforms.resize import resize_tensor


@pytest.fixture
def item(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20] = 255
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    return {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "a_mask.png"), "id": "a", "dataset": "A"}


def tensors(image, fov=None, **more):
    fov = torch.ones_like(image) if fov is None else fov
    return {"image": image, "fov": fov, "id": "x", **more}


def test_load_and_grey_give_tensors_height_first(item):
    out = GreyConversiond("image", "green")(FieldOfViewd(detect=False)(LoadRetinalImaged()(item)))
    assert out["image"].shape == out["label"].shape == out["fov"].shape == (1, 40, 60)
    assert out["image"].dtype == torch.float32 and out["file"] == item["image"]
    np.testing.assert_array_equal(out["image"][0], np.asarray(Image.open(item["image"]))[..., 1])
    assert out["label"].unique().tolist() == [0, 1] and out["label"][0, 10:20].all()


def test_label_is_not_touched_unless_asked_for(item):
    out = LoadRetinalImaged(masks=("fov",))({**item, "label": "/nowhere.png"})
    assert out["label"] == "/nowhere.png"


def test_empty_or_foreign_masks_name_the_file(item, tmp_path):
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(InputError, match="empty.png"):
        LoadRetinalImaged()({**item, "label": str(tmp_path / "empty.png")})
    Image.fromarray(np.full((60, 40), 255, np.uint8)).save(tmp_path / "turned.png")
    with pytest.raises(InputError, match="turned.png"):
        LoadRetinalImaged()({**item, "label": str(tmp_path / "turned.png")})


def test_given_field_of_view_wins_over_detection(item, tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :30] = 255
    Image.fromarray(mask).save(tmp_path / "fov.png")
    out = FieldOfViewd()(LoadRetinalImaged()({**item, "fov": str(tmp_path / "fov.png")}))
    assert out["fov"].sum() == 40 * 30


def test_resize_uses_the_factor_of_the_dataset_and_area_means():
    image = torch.arange(64.0).reshape(1, 8, 8)
    label = torch.zeros(1, 8, 8)
    label[:, :, :3] = 1  # covers the first 2x2 block whole, half of the second: half is not above half
    out = ResizeToWorkingResolutiond({"A": 0.5, "B": 1.0})(tensors(image, label=label, dataset="A"))
    torch.testing.assert_close(out["image"][0], image[0].reshape(4, 2, 4, 2).mean((1, 3)))
    assert out["label"][0].tolist() == [[1, 0, 0, 0]] * 4
    with pytest.raises(InputError, match="'C'"):
        ResizeToWorkingResolutiond({"A": 0.5})(tensors(image, dataset="C"))


@pytest.mark.parametrize("side", [400, 380, 300, 210, 200, 150, 57])
def test_resizing_leaves_everything_in_its_place(side):
    """On a ramp every value is a position, which resizing must not move; the filters reach beyond the border."""
    ramp = (torch.arange(400.0) + 0.5).expand(1, 400, 400)
    positions = resize_tensor(ramp, (side, side))[0, 0] * side / 400 - 0.5
    inside = slice(2, side - 2)
    assert (positions - torch.arange(side))[inside].abs().max() < 0.25


def test_thin_vessels_survive_a_slight_reduction_and_the_way_back():
    _, mask = octa_phantom(np.random.default_rng(0), 304)
    whole = torch.from_numpy(mask).float()[None]
    reduced = (resize_tensor(whole, (274, 274)) > 0.5).float()
    back = to_size(reduced, (304, 304)) > 0.5
    assert 2 * (back & (whole > 0)).sum() / (back.sum() + whole.sum()) > 0.98


def test_scaling_looks_inside_only_and_fills_outside_with_the_median():
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 50, 50, generator=g) * 30 + 100
    fov = torch.zeros(1, 50, 50)
    fov[:, 10:40, 10:40] = 1
    out = ScaleIntensityInFieldOfViewd("image", 0, 100)(tensors(image * fov, fov))["image"]
    inside = out[fov > 0.5]
    assert inside.min() == -1 and inside.max() == 1
    assert torch.unique(out[fov < 0.5]).tolist() == pytest.approx([float(np.median(inside))])
    order = image[fov > 0.5].argsort()
    assert (inside[order].diff() >= -1e-6).all()


def test_black_image_and_empty_field_of_view_name_the_item():
    with pytest.raises(InputError, match="b.png.*flat"):
        ScaleIntensityInFieldOfViewd()(tensors(torch.zeros(1, 9, 9), file="b.png"))
    with pytest.raises(InputError, match="b.png.*field of view"):
        ScaleIntensityInFieldOfViewd()(tensors(torch.rand(1, 9, 9), torch.zeros(1, 9, 9), file="b.png"))


def test_polarity_negates_dark_only():
    x = torch.rand(1, 4, 4)
    assert torch.equal(VesselPolarityd(polarity="dark")(tensors(x))["image"], -x)
    assert torch.equal(VesselPolarityd(polarity="bright")(tensors(x))["image"], x)


def test_flattening_and_matching_stay_in_range_and_neutral_outside():
    g = torch.Generator().manual_seed(0)
    fov = torch.zeros(1, 64, 64)
    fov[:, 8:56, 8:56] = 1
    reference = np.linspace(-0.8, 0.6, 257).tolist()
    out = RetinalCompose([FlattenBackgroundd(sigma=8), MatchQuantilesd("image", reference)])(
        tensors(torch.randn(1, 64, 64, generator=g), fov)
    )["image"]
    assert out.min() >= -0.8 - 1e-6 and out.max() <= 0.6 + 1e-6
    assert torch.unique(out[fov < 0.5]).numel() == 1 and abs(out[0, 0, 0] + 0.1) < 0.03


def test_patch_centres_name_the_item_that_is_too_small():
    out = PatchCentresd(5)(tensors(torch.zeros(1, 9, 9)))
    assert out["centres"].shape == (1, 9, 9) and out["centres"].sum() == 25
    with pytest.raises(InputError, match="small.png"):
        PatchCentresd(16)(tensors(torch.zeros(1, 9, 9), file="small.png"))


def test_an_image_that_is_a_little_small_lies_on_a_surround():
    image = torch.rand(1, 20, 40, generator=torch.Generator().manual_seed(1))
    fov = torch.ones(1, 20, 40, dtype=torch.uint8)
    out = PatchCentresd(32, pad=True)(tensors(image, fov, label=torch.ones(1, 20, 40)))
    assert all(out[key].shape == (1, 32, 40) for key in ("image", "label", "fov", "centres"))
    inside = torch.zeros(1, 32, 40, dtype=torch.bool)
    inside[:, 6:26] = True
    assert torch.equal(out["image"][inside], image.flatten())
    assert torch.equal(out["image"][~inside].unique(), torch.tensor([np.median(image.numpy())]))
    assert torch.equal(out["label"] > 0, inside) and torch.equal(out["fov"] > 0, inside)
    assert out["fov"].dtype == torch.uint8
    assert out["centres"].sum() == 40 - 32 + 1  # wherever a patch holds all rows


@pytest.mark.parametrize(("side", "pad"), [(31, False), (15, True)])
def test_an_image_that_is_much_too_small_is_not_padded(side, pad):
    with pytest.raises(InputError, match="choose a smaller patch"):
        PatchCentresd(32, pad=pad)(tensors(torch.zeros(1, side, 40)))


def test_an_image_that_is_large_enough_stays_as_it_is():
    image = torch.rand(1, 32, 40, generator=torch.Generator().manual_seed(1))
    fov = torch.ones(1, 32, 40)
    fov[:, :, :6] = 0
    plain, padding = (PatchCentresd(32, pad=pad)(tensors(image, fov)) for pad in (False, True))
    assert all(torch.equal(plain[key], padding[key]) for key in ("image", "fov", "centres"))


def test_compose_lets_user_errors_through_and_keeps_others():
    with pytest.raises(InputError):
        RetinalCompose([RetinalCompose([PatchCentresd(16)])])(tensors(torch.zeros(1, 9, 9)))
    with pytest.raises(RuntimeError):
        RetinalCompose([VesselPolarityd("absent")])(tensors(torch.zeros(1, 9, 9)))


def test_a_field_of_view_is_left_out_if_it_is_the_whole_image():
    part = torch.ones(1, 4, 5, dtype=torch.uint8)
    part[0, 0, 0] = 0
    assert DropWholeFieldOfViewd()({"image": 1, "fov": torch.ones(1, 4, 5)}) == {"image": 1}
    assert DropWholeFieldOfViewd()({"image": 1, "fov": part})["fov"] is part


def test_a_scale_that_leaves_no_picture_is_refused():
    with pytest.raises(InputError, match="a.png: 2 x 3 pixels at the working resolution, 0.001 times .* scale"):
        ResizeToWorkingResolutiond(0.001)(tensors(torch.zeros(1, 3000, 2000), file="a.png"))
