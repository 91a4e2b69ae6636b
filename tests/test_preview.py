import numpy as np
import pytest
import torch
from PIL import Image

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.preview import MAX_BYTES, overlay, save_contact_sheet, to_rgb


def test_grey_values_masks_and_bytes():
    image = np.array([[-1.0, 0.0, 0.5, 2.0]])
    np.testing.assert_array_equal(to_rgb(image)[0, :, 0], [0, 128, 191, 255])
    np.testing.assert_array_equal(to_rgb(np.array([[0.0, 1.0]]))[0, :, 1], [0, 255])
    np.testing.assert_array_equal(to_rgb(np.array([[[False, True]]]))[0, :, 2], [0, 255])
    colour = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(to_rgb(colour), colour)
    with pytest.raises(InputError, match="shape"):
        to_rgb(np.zeros((2, 5, 5)))


def test_overlay_blends_inside_the_mask_and_leaves_the_rest():
    image = np.full((2, 2), 100, np.uint8)
    shown = overlay(image, np.array([[1, 0], [0, 0]]), colour=(200, 0, 0), opacity=0.5)
    np.testing.assert_array_equal(shown[0, 0], [150, 50, 50])
    assert (shown.reshape(-1, 3)[1:] == 100).all()
    colours = np.full((2, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(overlay(colours, np.eye(2), colour=(200, 0, 0), opacity=0.5)[1, 1], [150, 50, 50])
    assert (colours == 100).all(), "the image itself is not tinted"
    with pytest.raises(InputError, match="overlay"):
        overlay(image, np.zeros((3, 3)))


def test_tensors_are_never_taken_for_bytes():
    """Masks are stored as bytes of 0 and 1."""
    np.testing.assert_array_equal(to_rgb(torch.tensor([[[0, 1]]], dtype=torch.uint8))[0, :, 0], [0, 255])
    network_output = torch.full((1, 2, 2), -0.5, requires_grad=True)
    assert (to_rgb(network_output) == 64).all()


def test_patches_are_drawn_pixel_by_pixel_in_grey(tmp_path):
    patches = torch.linspace(-1, 1, 3 * 4 * 6).reshape(3, 1, 4, 6)
    masks = (patches > 0).float()
    sheet = np.asarray(Image.open(save_contact_sheet([patches, masks], tmp_path / "s.png", rows=2, gap=2)))
    assert sheet.shape == (2 * (4 + 2) + 2, 2 * (6 + 2) + 2)
    for row in range(2):
        top = 2 + row * 6
        np.testing.assert_array_equal(sheet[top : top + 4, 2:8], to_rgb(patches[row])[..., 0])
        np.testing.assert_array_equal(sheet[top : top + 4, 10:16], 255 * masks[row, 0])
    assert (sheet[:2] == 128).all() and (sheet[:, 8:10] == 128).all(), "a mask's vessels end at its edge"


def test_tiles_and_titles_are_in_their_places(tmp_path):
    first, second, red = np.full((4, 4), 50, np.uint8), np.full((4, 4), 200, np.uint8), np.zeros((2, 4, 3), np.uint8)
    second[0, 0], red[..., 0] = 10, 255
    columns = [[first, second], [second, red]]
    sheet = np.asarray(Image.open(save_contact_sheet(columns, tmp_path / "s.png", titles=["a", "b"], tile=8, gap=2)))
    assert sheet.shape == (16 + 2 * 10 + 2, 2 * 10 + 2, 3)
    assert (sheet[18:26, 2:10] == 50).all()
    assert (sheet[18:20, 12:14] == 10).all() and (sheet[20:26, 14:20] == 200).all()
    assert (sheet[28:32, 12:20] == (255, 0, 0)).all() and (sheet[32:36, 12:20] == 128).all()
    assert (sheet[:16, :10] < 128).any() and (sheet[:16, 12:] < 128).any(), "titles are drawn"


def test_large_pictures_shrink_by_averaging(tmp_path):
    checks = np.indices((16, 16)).sum(axis=0) % 2 == 0
    sheet = np.asarray(Image.open(save_contact_sheet([[checks]], tmp_path / "s.png", tile=8)))
    assert np.isin(sheet[2:10, 2:10], (127, 128)).all()


def test_tiles_of_noise_stay_small(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, (4, 4, 128, 128))
    path = save_contact_sheet([list(column) for column in noise], tmp_path / "s.png", titles=list("abcd"), tile=128)
    assert path.stat().st_size < MAX_BYTES
    assert Image.open(path).width == 4 * (64 + 2) + 2


@pytest.mark.parametrize(
    ("columns", "titles"),
    [([], []), ([[]], []), ([[np.zeros((2, 2))]] * 2, ["one"]), ([[np.zeros((2, 2))]], ["a", "b"])],
)
def test_sheets_that_cannot_be_drawn(tmp_path, columns, titles):
    with pytest.raises(InputError, match="contact sheet"):
        save_contact_sheet(columns, tmp_path / "s.png", titles=titles)
    assert not list(tmp_path.iterdir())
