import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from monai_vessel_uda.data.phantoms import write_phantoms
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.transforms.histogram import quantiles
from monai_vessel_uda.transforms.preprocessing import estimate_preprocessing, source_transforms, target_transforms
from monai_vessel_uda.transforms.survey import survey

from ..real_images import DATA, needs_real_images


def warnings_of(caplog):
    """What was warned of; the level of the logger is another test's."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def items(folder, domain, dataset, label=True):
    found = []
    for path in sorted((folder / "images").iterdir()):
        found.append({"image": str(path), "id": f"{dataset}/{path.stem}", "domain": domain, "dataset": dataset})
        if label:
            found[-1]["label"] = str(next((folder / "labels").glob(f"{path.stem}.*")))
    return found


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folders = write_phantoms(tmp_path_factory.mktemp("p"), source=4, target=4, evaluation=2, supervised=0, size=128)
    return {
        "source": items(folders["source"], "source", "photographs"),
        "target": items(folders["target"], "target", "angiograms", label=False),
        "evaluation": items(folders["evaluation"], "target", "angiograms"),
    }


@pytest.fixture(scope="module")
def record(phantoms):
    return estimate_preprocessing(phantoms["source"], phantoms["target"], max_images=3)


def test_record_is_json_and_deterministic(record, phantoms):
    assert json.loads(json.dumps(record)) == record
    assert estimate_preprocessing(phantoms["source"], phantoms["target"], max_images=3) == record


def test_record_tells_photographs_from_angiograms(record):
    source, target = record["source"], record["target"]
    assert (source["polarity"], source["polarity_by"]) == ("dark", "by mask")
    assert (target["polarity"], target["polarity_by"]) == ("bright", "by vesselness")
    assert source["field_of_view"] and not target["field_of_view"]
    assert target["working_side"] == 128
    quantile = np.array(record["match"]["quantiles"])
    assert quantile.size == 257 and (np.diff(quantile) >= 0).all() and quantile[0] == -1 and quantile[-1] == 1


def test_source_masks_are_as_wide_as_the_ridges_of_the_target(record):
    entry = record["source"]["datasets"]["photographs"]
    assert entry["scale_by"] == "by masks"
    assert entry["working_calibre_mask"] == pytest.approx(record["target"]["working_calibre"])


def test_ridges_can_be_matched_instead(phantoms):
    record = estimate_preprocessing(phantoms["source"], phantoms["target"], source_scale="vesselness")
    entry = record["source"]["datasets"]["photographs"]
    assert entry["scale_by"] == "by vesselness"
    assert entry["working_calibre_vesselness"] == pytest.approx(record["target"]["working_calibre"], rel=0.1)


def test_calibres_can_be_left_as_they_are(phantoms):
    record = estimate_preprocessing(phantoms["source"], phantoms["target"], source_scale="nominal")
    entry = record["source"]["datasets"]["photographs"]
    assert entry["scale_by"] == "by field of view"
    assert entry["scale"] == entry["nominal_scale"]


@pytest.mark.parametrize("variant", ["raw", "negated", "matched", "aligned"])
def test_source_items_obey_the_contract(record, phantoms, variant):
    out = source_transforms(record, variant)(phantoms["source"][0])
    entry = record["source"]["datasets"]["photographs"]
    side = round(entry["native_size"][0] * entry["scale" if variant == "aligned" else "nominal_scale"])
    for key, dtype in {"image": torch.float32, "label": torch.float32, "fov": torch.uint8}.items():
        assert type(out[key]) is torch.Tensor and out[key].dtype == dtype
        assert out[key].shape == (1, side, side)
    assert set(out) == {"image", "label", "fov", "id", "domain", "dataset", "file"}
    assert out["image"].abs().max() <= 1 and set(out["label"].unique().tolist()) == {0, 1}
    inside = out["fov"] > 0.5
    vessel = out["image"][(out["label"] > 0.5) & inside].mean() - out["image"][(out["label"] < 0.5) & inside].mean()
    assert vessel < -0.1 if variant == "raw" else vessel > 0.1


def test_negated_is_the_negative_of_raw(record, phantoms):
    raw, negated = (source_transforms(record, v)(phantoms["source"][1])["image"] for v in ("raw", "negated"))
    torch.testing.assert_close(negated, -raw)


@pytest.mark.parametrize("variant", ["matched", "aligned"])
def test_matched_source_has_the_target_distribution(record, phantoms, variant):
    out = source_transforms(record, variant)(phantoms["source"][0])
    got = quantiles([out["image"][0].numpy()], [out["fov"][0].numpy() > 0.5])
    np.testing.assert_allclose(got, record["match"]["quantiles"], atol=0.05)


def test_target_chain_never_reads_labels_unless_told(record, phantoms):
    item = phantoms["evaluation"][0]
    blind = target_transforms(record)({**item, "label": "/nowhere.png"})
    assert "label" not in blind and blind["image"].shape == (1, 128, 128)
    seeing = target_transforms(record, with_label=True)(item)
    assert torch.equal(seeing["image"], blind["image"]) and seeing["label"].any()


def test_estimation_never_reads_target_masks(record, phantoms):
    peeking = [{**item, "label": "/nowhere.png"} for item in phantoms["target"]]
    assert estimate_preprocessing(phantoms["source"], peeking, max_images=3) == record


def test_masks_of_lines_are_named(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (2200, 2200), dtype=np.uint8)).save(tmp_path / "fine.png")
    mask = np.zeros((2200, 2200), np.uint8)
    mask[::300] = 255
    Image.fromarray(mask).save(tmp_path / "lines.png")
    item = {"image": str(tmp_path / "fine.png"), "label": str(tmp_path / "lines.png"), "dataset": "x", "id": "fine"}
    with pytest.raises(InputError, match=r"fine.png: nothing is left of its vessel mask at 1024 x 1024 pixels"):
        survey([item], with_masks=True)


def test_choices_can_be_given(phantoms):
    record = estimate_preprocessing(
        phantoms["source"],
        phantoms["target"],
        grey={"source": "red"},
        source_polarity="dark",
        target_polarity="bright",
        target_scale=0.75,
        source_scale={"photographs": 0.5},
        flatten=False,
        match=False,
        max_images=1,
    )
    assert record["source"]["grey"] == "red" and record["source"]["polarity_by"] == "given"
    assert record["source"]["datasets"]["photographs"]["scale"] == 0.5
    aligned = source_transforms(record, "aligned")(phantoms["source"][0])
    assert aligned["image"].shape[-1] == round(record["source"]["datasets"]["photographs"]["native_size"][0] * 0.5)
    assert target_transforms(record)(phantoms["target"][0])["image"].shape == (1, 96, 96)


def test_dark_targets_are_made_bright(phantoms):
    photographs = [{k: v for k, v in item.items() if k != "label"} for item in phantoms["source"]]
    record = estimate_preprocessing(phantoms["source"], photographs, max_images=2, source_scale="vesselness")
    assert record["target"]["polarity"] == "dark" and record["target"]["field_of_view"]
    entry = record["source"]["datasets"]["photographs"]
    assert entry["scale"] == pytest.approx(1, rel=0.15) and entry["nominal_scale"] == pytest.approx(1, rel=0.05)
    label = source_transforms(record, "raw")(phantoms["source"][0])
    image = target_transforms(record)(photographs[0])
    same = torch.nn.functional.interpolate(label["label"][None], image["image"].shape[-2:])[0] > 0.5
    assert image["image"][same].mean() > image["image"][~same & (image["fov"] > 0.5)].mean() + 0.1


def test_images_that_contradict_each_other_on_the_polarity_are_pointed_out(phantoms, tmp_path, caplog):
    mixed = []
    for number, item in enumerate(phantoms["target"]):
        mixed.append({**item, "image": str(tmp_path / f"{number}.png")})
        values = np.asarray(Image.open(item["image"]))
        Image.fromarray(255 - values if number % 2 else values).save(mixed[-1]["image"])
    estimate_preprocessing(phantoms["source"], phantoms["target"])
    assert not warnings_of(caplog)
    record = estimate_preprocessing(phantoms["source"], mixed)
    assert record["target"]["polarity_evidence"]["agreement"] == 0.5
    (message,) = warnings_of(caplog)
    assert message.startswith("target: ") and "--target-polarity" in message
    estimate_preprocessing(phantoms["source"], mixed, target_polarity="bright")
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(
    "options, word",
    [
        ({"source_polarity": "light"}, "source_polarity"),
        ({"grey": "cyan"}, "grey"),
        ({"grey": {"sorce": "red"}}, "grey: expected values for 'source' and 'target', received one for 'sorce'"),
        ({"target_scale": 0}, "target_scale"),
        ({"target_scale": math.inf}, "target_scale"),
        ({"target_scale": math.nan}, "target_scale"),
        ({"source_scale": {"other": 0.3}}, "photographs"),
        ({"source_scale": {"photographs": 0.3, "other": 0.3}}, "scales of photographs, received one of 'other'"),
        ({"source_scale": {}}, "source_scale of photographs"),
        ({"source_scale": True}, "source_scale"),
        ({"source_scale": math.inf}, "source_scale"),
        ({"source_scale": {"photographs": math.nan}}, "source_scale"),
        ({"source_scale": -1.0}, "source_scale"),
        ({"max_images": 0}, "max_images"),
    ],
)
def test_unusable_options_are_refused(phantoms, options, word):
    with pytest.raises(InputError, match=word):
        estimate_preprocessing(phantoms["source"][:1], phantoms["target"][:1], **options)
    with pytest.raises(InputError, match="variant"):
        source_transforms({}, "other")


def test_unusable_files_are_named(phantoms, tmp_path):
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(tmp_path / "black.png")
    black = {**phantoms["target"][0], "image": str(tmp_path / "black.png")}
    with pytest.raises(InputError, match=r"black\.png"):
        estimate_preprocessing(phantoms["source"][:1], [black, phantoms["target"][1]])
    with pytest.raises(InputError, match="label"):
        estimate_preprocessing([{k: v for k, v in phantoms["source"][0].items() if k != "label"}], phantoms["target"])


@needs_real_images("CHASE_DB1", "ROSSA")
def test_real_photographs_and_angiograms():
    source = [
        {"image": str(p), "label": str(p.with_name(p.stem + "_1stHO.png")), "id": p.stem, "dataset": "CHASE_DB1"}
        for p in sorted((DATA / "CHASE_DB1").glob("*.jpg"))[:3]
    ]
    target = [
        {"image": str(p), "id": p.stem, "dataset": "ROSSA"}
        for p in sorted((DATA / "ROSSA" / "train_manual" / "image").glob("*.png"))[:3]
    ]
    record = estimate_preprocessing(source, target, source_scale="vesselness")
    assert record["source"]["polarity"] == "dark" and record["source"]["grey"] == "green"
    assert record["target"]["polarity"] == "bright" and not record["target"]["field_of_view"]
    assert 2.5 < record["target"]["working_calibre"] < 4.5
    assert 0.18 < record["source"]["datasets"]["CHASE_DB1"]["scale"] < 0.36
