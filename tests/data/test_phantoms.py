import hashlib

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, distance_transform_edt
from skimage.morphology import skeletonize

from monai_vessel_uda.data.phantoms import fundus_phantom, octa_phantom, write_phantoms
from monai_vessel_uda.data.vessel_trees import STEP, Branch, depth_map, grow_tree
from monai_vessel_uda.errors import InputError

COUNTS = {"source": 3, "target": 3, "evaluation": 3, "supervised": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), seed=3, **COUNTS)


def digests(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.png")}


def pairs(folder):
    for path in sorted((folder / "images").iterdir()):
        yield np.asarray(Image.open(path)), np.asarray(Image.open(folder / "labels" / path.name))


def calibre(mask):
    """Median vessel diameter in pixels along the skeleton."""
    return float(np.median(2 * distance_transform_edt(mask)[skeletonize(mask)]))


def test_same_seed_same_bytes_and_every_other_image_differs(tmp_path):
    small = {"source": 2, "target": 2, "evaluation": 1, "supervised": 1, "size": 64}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_phantoms(tmp_path / name, seed=seed, **small)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b and len(a) == 10
    assert a.keys() == c.keys() and not set(a.values()) & set(c.values())
    assert len(set(a.values())) == len(a)


def test_more_images_leave_the_first_ones_as_they_were(tmp_path):
    few = write_phantoms(tmp_path / "few", seed=1, source=1, target=1, evaluation=0, supervised=0, size=64)
    more = write_phantoms(tmp_path / "more", seed=1, source=2, target=3, evaluation=0, supervised=0, size=64)
    assert set(few) == {"source", "target"}
    assert digests(tmp_path / "few").items() < digests(tmp_path / "more").items()
    assert few["source"] == tmp_path / "few" / "source" and more["source"].is_dir()


def test_layout_modes_and_masks(folders):
    assert set(folders) == set(COUNTS)
    assert not (folders["target"] / "labels").exists()
    for name, folder in folders.items():
        images = sorted((folder / "images").iterdir())
        assert len(images) == COUNTS[name]
        shape = (160, 160, 3) if name == "source" else (96, 96)
        assert all(np.asarray(Image.open(path)).shape == shape for path in images)
    for name in ("source", "evaluation", "supervised"):
        for image, label in pairs(folders[name]):
            assert label.shape == image.shape[:2] and set(np.unique(label)) == {0, 255}
            assert 0.04 < (label > 0).mean() < 0.25


def test_vessels_are_dark_in_the_source_and_bright_in_the_target(folders):
    for name, sign in (("source", -1), ("evaluation", 1)):
        for image, label in pairs(folders[name]):
            grey = image[..., 1].astype(float) if image.ndim == 3 else image.astype(float)
            vessel = label > 0
            around = binary_dilation(vessel, iterations=3) & ~binary_dilation(vessel)
            assert sign * (grey[vessel].mean() - grey[around].mean()) > 15


def test_source_vessels_are_wider_in_pixels(folders):
    source, target = (
        np.mean([calibre(label > 0) for _, label in pairs(folders[name])]) for name in ("source", "evaluation")
    )
    assert 1.1 < source / target < 2.5


def test_photographs_have_a_black_surround_and_angiograms_a_dark_fovea(folders):
    for image, label in pairs(folders["source"]):
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.max() < 30 and not label[:8, :8].any()
        assert image[60:100, 60:100, 0].mean() > image[60:100, 60:100, 2].mean() + 40
    for image, _ in pairs(folders["evaluation"]):
        assert image[:8, :8].mean() > 20
        assert image[40:56, 40:56].mean() < image.mean()


def test_capillaries_are_in_the_angiogram_and_not_in_its_mask():
    image, mask = octa_phantom(np.random.default_rng(0))
    far = ~binary_dilation(mask, iterations=3)
    # Speckle alone has a standard deviation of 18 % of the mean; the mesh adds structure to it.
    assert image[far].std() / image[far].mean() > 0.35


def test_size_scales_the_drawing():
    _, small = fundus_phantom(np.random.default_rng(1), 120)
    _, large = fundus_phantom(np.random.default_rng(1), 240)
    assert calibre(large) / calibre(small) == pytest.approx(2, rel=0.25)


def test_depth_of_a_straight_vessel_has_a_closed_form():
    columns = np.arange(4, 28, STEP)
    branch = Branch(np.stack([np.full_like(columns, 15.0), columns], axis=1), np.full_like(columns, 3.0))
    depth = depth_map([branch], 32)
    np.testing.assert_allclose(depth[12:19, 16], 3 - np.abs(np.arange(12, 19) - 15), atol=1e-12)
    assert np.isneginf(depth[25, 16]) and depth[15, 31] == -0.5 and np.isneginf(depth[15, 0])
    assert np.isneginf(depth_map([], 8)).all()


def test_trees_taper_branch_and_stay_inside():
    frame = np.zeros((100, 100), bool)
    frame[10:90] = True
    tree = grow_tree(np.random.default_rng(2), (50, 0), 0.0, 2.5, finest=0.8, reach=40, frame=frame)
    assert len(tree) > 3
    for branch in tree:
        assert (np.diff(branch.radius) < 0).all() and branch.radius[0] >= 0.8
        np.testing.assert_allclose(np.linalg.norm(np.diff(branch.points, axis=0), axis=1), STEP)
        assert frame[tuple(np.rint(branch.points).astype(int).T)].all()
    assert max(branch.radius[0] for branch in tree[1:]) < tree[0].radius[0] == 2.5


def test_progress_counts_to_the_total(tmp_path):
    seen = []
    write_phantoms(
        tmp_path, source=1, target=2, evaluation=0, supervised=0, size=48, progress=lambda *step: seen.append(step)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("wrong", [{"size": 20}, {"source": -1}, {"seed": -1}])
def test_unusable_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        write_phantoms(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())
