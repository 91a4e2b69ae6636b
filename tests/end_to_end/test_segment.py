"""The exported bundle on files of every kind."""

import csv
import re
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda import segmenter
from monai_vessel_uda.data.images import read_image, read_mask
from monai_vessel_uda.deployment.runtimes import convert_bundle
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json
from monai_vessel_uda.metrics.morphology import vessel_morphology


@pytest.fixture
def folder(tmp_path, phantoms):
    """A non-square picture as PNG, TIFF, BMP, JPEG and NIfTI, and in colour as PNG (RGB, RGBA, palette)."""
    grey = read_image(sorted((phantoms["evaluation"] / "images").glob("*.png"))[0]).array[:, :56]
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    picture = Image.fromarray(grey)
    picture.save(images / "grey.png")
    level = np.arange(256)
    colours = np.stack([level, level**2 // 255, 255 - level], axis=-1).astype(np.uint8)
    Image.fromarray(colours[grey]).save(images / "rgb.png")
    Image.fromarray(np.dstack([colours[grey], grey])).save(images / "rgba.png")
    palette = Image.fromarray(grey, "P")
    palette.putpalette(colours.tobytes())
    palette.save(images / "palette.png")
    luma = colours @ np.array([0.299, 0.587, 0.114])
    Image.fromarray(luma[grey].astype(np.float32)).save(images / "luma.tif")
    picture.save(images / "a.tif")
    picture.save(images / "b.bmp")
    picture.save(images / "sub" / "c.jpg")
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.float32), np.diag([-0.1, 0.2, 1, 1])), images / "d.nii.gz")
    return images


def test_folder_of_all_formats(folder, adapted, tmp_path):
    out = segmenter.segment(folder, tmp_path / "out", adapted, probability=True, overlay=True)
    reference, coloured = read_mask(out / "grey_vessels.png"), read_mask(out / "luma_vessels.tif")
    assert reference.shape == (64, 56) and not np.array_equal(reference, coloured)
    for file in ("a_vessels.tif", "b_vessels.bmp"):
        assert np.array_equal(read_mask(out / file), reference), file
    for name in ("rgb", "rgba", "palette"):
        assert np.array_equal(read_mask(out / f"{name}_vessels.png"), coloured), name
    assert read_mask(out / "sub" / "c_vessels.png").shape == reference.shape
    nifti = nibabel.load(out / "d_vessels.nii.gz")
    assert np.array_equal(np.asarray(nifti.dataobj).T > 0, reference)
    assert np.allclose(nifti.affine, np.diag([-0.1, 0.2, 1, 1]))
    probability = read_image(out / "grey_probability.png").array
    assert probability.dtype == np.uint16
    threshold = load_json(adapted / "vessel_segmentation" / "models" / "model.json")["threshold"]
    assert np.mean((probability / 65535 >= threshold) == reference) > 0.999
    assert read_image(out / "grey_overlay.png").array.shape == (64, 56, 3)


def test_single_file_and_scale(folder, adapted, tmp_path):
    out = segmenter.segment(folder / "grey.png", tmp_path / "out", adapted, scale=1.5, suffix=".tif")
    assert [path.name for path in out.iterdir()] == ["grey_vessels.tif"]
    assert read_mask(out / "grey_vessels.tif").shape == (64, 56)


def test_the_segmenters_own_threshold_and_a_given_one(folder, adapted, tmp_path):
    image = folder / "grey.png"
    own = load_json(adapted / "vessel_segmentation" / "models" / "model.json")["threshold"]
    fractions = []
    for name, threshold in (("own", None), ("same", own), ("low", 1e-6), ("high", 1 - 1e-6)):
        out = segmenter.segment(image, tmp_path / name, adapted, threshold=threshold)
        fractions.append(float((read_image(next(out.glob("grey_vessels*"))).array > 0).mean()))
    assert fractions[0] == fractions[1]
    assert fractions[2] > fractions[0] >= fractions[3]
    with pytest.raises(InputError, match="threshold"):
        segmenter.segment(image, tmp_path / "none", adapted, threshold=1.5)
    assert not (tmp_path / "none").exists()


def test_mirrored_views_are_averaged(folder, adapted, tmp_path):
    """With all eight it does not matter how an image lies."""
    once, eight = (segmenter.segment(folder, tmp_path / str(v), adapted, probability=True, views=v) for v in (1, 8))
    upright, averaged = (read_image(out / "grey_probability.png").array for out in (once, eight))
    assert upright.shape == averaged.shape and not np.array_equal(upright, averaged)
    Image.fromarray(read_image(folder / "grey.png").array.T.copy()).save(folder / "turned.png")
    for out, views in ((once, 1), (eight, 8)):
        turned = segmenter.segment(folder / "turned.png", out, adapted, probability=True, views=views)
        difference = read_image(turned / "turned_probability.png").array.T.astype(float)
        difference -= read_image(out / "grey_probability.png").array
        assert (np.abs(difference).max() < 0.001 * 65535) == (views == 8)
    with pytest.raises(InputError, match="views: expected one of 1, 2, 4, 8, got 3"):
        segmenter.segment(folder / "grey.png", tmp_path / "none", adapted, views=3)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("size", "scale", "warned"),
    [((96, 64), None, False), ((97, 97), None, True), ((40, 40), None, True), ((97, 97), 1.0, False)],
)
def test_images_of_quite_another_size_are_warned_of(adapted, tmp_path, caplog, size, scale, warned):
    """Those of the training have 64 x 64 pixels; one without a readable header is no reason to stop here."""
    (tmp_path / "in").mkdir()
    for name, shape in (("a", (64, 64)), ("b", size)):
        picture = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        Image.fromarray(picture).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "c.png").write_text("no picture")
    with pytest.raises(InputError, match="1 of 3 images could not be segmented: .*c.png"):
        segmenter.segment(tmp_path / "in", tmp_path / "out", adapted, scale=scale)
    text = f"1 of 3 images are more than 1.5 times .* 64 x 64 to 64 x 64; .*b.png, {size[0]} x {size[1]}. .* --scale"
    assert bool(re.search(text, caplog.text)) == warned == ("--scale" in caplog.text)


def test_measurements_are_those_of_the_masks(folder, adapted, tmp_path):
    out = segmenter.segment(folder, tmp_path / "out", adapted, measurements=True, threshold=0.5)
    with open(out / "measurements.csv", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    mask = read_mask(out / "grey_vessels.png")
    for name, row in rows.items():
        assert (float(row["threshold"]), int(row["area_px"])) == (0.5, mask.size)
        assert (row["vessel_skeleton_density_mm_per_mm2"] != "") == (name == "d.nii.gz")
    assert float(rows["grey.png"]["vessel_area_density"]) == pytest.approx(mask.mean(), rel=1e-5)
    nifti = {key: float(value) for key, value in rows["d.nii.gz"].items() if key != "image"}
    expected = vessel_morphology(read_mask(out / "d_vessels.nii.gz"), pixel_mm=(0.2, 0.1))
    assert {key: nifti[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert not (segmenter.segment(folder, tmp_path / "plain", adapted) / "measurements.csv").exists()


def test_evaluate_a_folder(adapted, phantoms, tmp_path):
    result = segmenter.evaluate(adapted, phantoms["evaluation"], tmp_path / "evaluation.json")
    assert (tmp_path / "evaluation.json").exists()
    assert len(result["per_image"]) == 2
    assert set(result["summary"]["dice"]) >= {"mean", "low", "high"}


def test_evaluate_warns_of_other_sizes(adapted, phantoms, tmp_path, caplog):
    for kind in ("images", "labels"):
        (tmp_path / "large" / kind).mkdir(parents=True)
        for path in (phantoms["evaluation"] / kind).iterdir():
            with Image.open(path) as image:
                image.resize((3 * image.width, 3 * image.height)).save(tmp_path / "large" / kind / path.name)
    segmenter.evaluate(adapted, phantoms["evaluation"], tmp_path / "scores.json")
    segmenter.evaluate(adapted, tmp_path / "large", tmp_path / "scores.json", scale=1 / 3)
    assert "larger or smaller" not in caplog.text
    segmenter.evaluate(adapted, tmp_path / "large", tmp_path / "scores.json")
    assert "2 of 2 images are more than 1.5 times larger or smaller" in caplog.text


@pytest.mark.parametrize("runtime", ["torchscript", "onnx"])
def test_evaluate_scores_what_segment_does(adapted, phantoms, tmp_path, runtime):
    bundle = shutil.copytree(adapted / "vessel_segmentation", tmp_path / "bundle")
    convert_bundle(bundle, runtime)
    own = load_json(bundle / "models" / "model.json")["threshold"]
    options = {"threshold": own + 0.01, "scale": 1.5, "views": 2, "runtime": runtime}
    segmenter.evaluate(bundle, phantoms["evaluation"], tmp_path / "scores.json", **options)
    scores = load_json(tmp_path / "scores.json")
    assert scores["conditions"] == options
    masks = segmenter.segment(phantoms["evaluation"] / "images", tmp_path / "out", bundle, **options)
    labels = phantoms["evaluation"] / "labels"
    for image in scores["per_image"]:
        stem = image["id"].removeprefix("evaluation-")
        mask, label = (read_mask(path) for path in (masks / f"{stem}_vessels.png", labels / f"{stem}.png"))
        assert image["scores"]["dice"] == pytest.approx(2 * (mask & label).sum() / (mask.sum() + label.sum()))
    plain = segmenter.evaluate(bundle, phantoms["evaluation"], tmp_path / "plain.json")
    assert plain["conditions"] == {"scale": 1.0, "threshold": own, "views": 1, "runtime": "torch"}
    assert plain["summary"]["dice"] != scores["summary"]["dice"]
    for option, message in (
        ({"threshold": 1.5}, "^threshold: "),
        ({"runtime": "x"}, "^runtime: "),
        ({"scale": -1}, "^scale: "),
    ):
        with pytest.raises(InputError, match=message):
            segmenter.evaluate(bundle, phantoms["evaluation"], tmp_path / "none.json", **option)
    assert not (tmp_path / "none.json").exists()


def test_paths_may_hold_what_monai_takes_for_an_id(adapted, phantoms, tmp_path):
    place = tmp_path / "it's #1@home%#"
    bundle = shutil.copytree(adapted / "vessel_segmentation", place / "bundle")
    labelled = shutil.copytree(phantoms["evaluation"], place / "ev")
    out = segmenter.segment(labelled / "images", place / "out", bundle)
    expected = segmenter.segment(phantoms["evaluation"] / "images", tmp_path / "out", adapted)
    assert len(list(out.iterdir())) == 2
    assert all((out / path.name).read_bytes() == path.read_bytes() for path in expected.iterdir())
    scores = [segmenter.evaluate(bundle, labelled), segmenter.evaluate(adapted, labelled, place / "scores.json")]
    assert scores[0] == scores[1]
    assert load_json(bundle / "eval" / "evaluation.json")["summary"] == load_json(place / "scores.json")["summary"]
    with pytest.raises(InputError, match="nowhere#: no such folder"):
        segmenter.evaluate(bundle, place / "nowhere#")


@pytest.mark.parametrize("make", ["missing", "empty", "truncated", "black", "no bundle", "no weights", "one stem"])
def test_bad_input_leaves_nothing(make, adapted, tmp_path, folder):
    source, bundle, out = tmp_path / "in", adapted, tmp_path / "out"
    if make != "missing":
        source.mkdir()
    if make == "truncated":
        (source / "x.png").write_bytes((folder / "grey.png").read_bytes()[:200])
    elif make == "black":
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(source / "x.png")
    elif make == "one stem":
        for name in ("x.png", "x.bmp"):
            Image.open(folder / "grey.png").save(source / name)
    elif make == "no bundle":
        bundle = tmp_path
    elif make == "no weights":
        bundle = tmp_path / "bundle"
        (bundle / "configs").mkdir(parents=True)
        (bundle / "configs" / "inference.json").write_text("{}")
    with pytest.raises(InputError):
        segmenter.segment(source, out, bundle)
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("runtime", ["torch", "torchscript"])
def test_bad_images_do_not_keep_others_from_their_masks(runtime, adapted, tmp_path, folder, caplog):
    bundle = adapted / "vessel_segmentation"
    if runtime == "torchscript":
        bundle = shutil.copytree(bundle, tmp_path / "bundle")
        convert_bundle(bundle, runtime)
    images, out = tmp_path / "some", tmp_path / "out"
    images.mkdir()
    for name in ("a", "c", "sub/e"):
        (images / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "grey.png", images / f"{name}.png")
    (images / "b.png").write_bytes((folder / "grey.png").read_bytes()[:200])
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(images / "d.png")
    with pytest.raises(InputError, match=r"^2 of 5 images could not be segmented: \S+/b.png, \S+/d.png;"):
        segmenter.segment(images, out, bundle, runtime=runtime)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {f"{name}_vessels.png" for name in ("a", "c", "sub/e")}
    expected = read_mask(segmenter.segment(folder / "grey.png", tmp_path / "one", bundle) / "grey_vessels.png")
    assert all(np.array_equal(read_mask(out / name), expected) for name in written)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 2 and "b.png: cannot be read" in lines[0] and "d.png: expected a picture" in lines[1]


def test_where_no_image_can_be_segmented_nothing_is_written(adapted, tmp_path):
    (tmp_path / "images").mkdir()
    for name in "abcd":
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    with pytest.raises(InputError, match=r"4 of 4 images could not be segmented: .*/a.png, .*/c.png, …;"):
        segmenter.segment(tmp_path / "images", tmp_path / "out", adapted)
    assert not (tmp_path / "out").exists()
