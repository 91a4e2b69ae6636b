import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.report.figures import (
    MAX_BYTES,
    SKY_BLUE,
    VERMILLION,
    YELLOW,
    compare,
    contact_sheet,
    curves,
    overlay,
    score_plot,
    to_rgb,
)


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
    with pytest.raises(InputError, match="overlay"):
        overlay(image, np.zeros((3, 3)))


def test_compare_colours_each_kind_of_pixel():
    prediction, reference = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])
    shown = compare(np.full((1, 4), 7, np.uint8), prediction, reference, opacity=1)
    np.testing.assert_array_equal(shown[0], [SKY_BLUE, VERMILLION, YELLOW, (7, 7, 7)])
    with pytest.raises(InputError, match="compare"):
        compare(np.zeros((1, 4)), prediction, np.zeros((2, 4)))


def test_contact_sheet_puts_each_picture_in_its_place(tmp_path):
    first, second = np.full((4, 4), 50, np.uint8), np.full((4, 4), 200, np.uint8)
    second[0, 0] = 10
    path = contact_sheet([[first, None], [None, second]], ["a", "b"], tmp_path / "s.png", tile=8, gap=2)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (16 + 2 * 10 + 2, 2 * 10 + 2, 3)
    assert (sheet[18:26, 2:10] == 50).all()
    assert (sheet[28:30, 12:14] == 10).all() and (sheet[30:36, 14:20] == 200).all()
    assert (sheet[18:26, 12:20] == 255).all() and (sheet[28:36, 2:10] == 255).all()
    assert (sheet[:16] < 128).any(), "column titles are drawn"


def test_contact_sheet_shrinks_large_pictures_by_averaging(tmp_path):
    checks = np.indices((16, 16)).sum(axis=0) % 2 == 0
    sheet = np.asarray(Image.open(contact_sheet([[checks]], [""], tmp_path / "s.png", tile=8)))
    assert np.isin(sheet[18:26, 2:10], (127, 128)).all()


def test_contact_sheet_of_noise_stays_small(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, (4, 128, 128))
    path = contact_sheet([list(noise)] * 4, list("abcd"), tmp_path / "s.png", tile=128)
    assert path.stat().st_size < MAX_BYTES
    assert Image.open(path).width == 4 * (64 + 2) + 2


def test_contact_sheet_refuses_rows_without_titles(tmp_path):
    for rows in ([], [[np.zeros((2, 2))] * 2]):
        with pytest.raises(InputError, match="contact sheet"):
            contact_sheet(rows, ["one"], tmp_path / "s.png")


def test_row_titles_are_drawn_on_the_first_tile(tmp_path):
    grey = np.full((32, 32), 100, np.uint8)
    sheet = np.asarray(Image.open(contact_sheet([[grey]], ["t"], tmp_path / "s.png", row_titles=["id 7"], tile=64)))
    assert (sheet[18:34, 2:40] > 200).any() and (sheet[40:80, 2:60] == 100).all()


def test_plots_are_small_repeatable_and_show_their_numbers(tmp_path):
    def rows(mean):
        return [
            {"name": "$a$", "scores": {"dice": {"mean": mean, "low": 0.0, "high": 0.9}}},
            {"name": "undefined", "scores": {"dice": {"mean": None}}},
        ]

    first, again, other = (
        score_plot(rows(mean), tmp_path / f"{n}.png").read_bytes() for n, mean in enumerate((0.5, 0.5, 0.6))
    )
    assert first == again != other
    drawn = curves({f"training {n}": [(1, 2.0), (2, 1.0)] for n in range(4)}, tmp_path / "c.png")
    assert Image.open(drawn).size == (870, 420)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < MAX_BYTES


def test_plots_refuse_what_they_cannot_draw(tmp_path):
    with pytest.raises(InputError, match="accuracy_of_luck"):
        score_plot([], tmp_path / "p.png", metric="accuracy_of_luck")
    with pytest.raises(InputError, match="curves"):
        curves({}, tmp_path / "p.png")
