"""MONAI Label's real server and client with an exported bundle."""

import json
import shutil
import socket
import subprocess
import sys
import urllib.error

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_vessel_uda.files import sha256

from ..docs.commands import bash, block, replaced
from .conftest import AFFINE, MODEL, PORT, SIZE, wait_for

pytestmark = [pytest.mark.label, pytest.mark.slow, pytest.mark.timeout(400)]

IMAGES = ["colour.png", "grey.png", "alpha.png", "scan.nii.gz", "photo.jpg"]


def read_mask(path):
    """A mask as an array (height, width)."""
    path = str(path)
    return nib.load(path).get_fdata().T if ".nii" in path else np.asarray(Image.open(path))


def run_bundle(server, output):
    """Masks of the studies by ``python -m monai.bundle run`` with what the server serves now, by image id."""
    images = output / "images"
    images.mkdir()
    for name in IMAGES:
        shutil.copy2(server.studies / name, images)
    config = server.bundle / "configs" / "inference.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--bundle_root", server.bundle]
    command += ["--dataset_dir", images, "--output_dir", output / "masks"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    names = {name: name.split(".")[0] for name in IMAGES}
    return {stem: read_mask(output / "masks" / f"{stem}_vessels.png") > 0 for stem in names.values()}


def infer(client, image, **parameters):
    path, _ = client.infer(MODEL, image, parameters)
    return path


def dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def finished_training(client):
    """Last lines of the training, once it has ended well."""
    wait_for(lambda: client.train_status()["status"] not in ("SUBMITTED", "RUNNING"), 240)
    status = client.train_status()
    details = "\n".join(status["details"])
    assert status["status"] == "DONE", details
    return details


def scores_are_made(server):
    try:
        tasks, _ = server.get("/scoring/?all=true")
    except urllib.error.HTTPError:
        return False
    return all(task["status"] == "DONE" for task in tasks)


def scores(server):
    return json.loads((server.studies / "monai_label" / "uncertainty.json").read_text())


@pytest.fixture(scope="module")
def by_bundle_run(server, tmp_path_factory):
    return run_bundle(server, tmp_path_factory.mktemp("before"))


def test_info_lists_the_model(client):
    info = client.info()
    model = info["models"][MODEL]
    assert (model["type"], model["labels"], model["dimension"]) == ("segmentation", {"vessel": 1}, 2)
    assert list(info["models"]) == list(info["trainers"]) == [MODEL]
    assert list(info["strategies"])[0] == "uncertainty"
    assert info["datastore"]["total"] == 9


@pytest.mark.parametrize("name", IMAGES)
def test_the_mask_is_that_of_bundle_run_and_lies_on_the_image(server, client, by_bundle_run, name):
    image = name.split(".")[0]
    path = infer(client, image)
    mask = read_mask(path)
    assert mask.shape == SIZE[::-1]
    assert set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(mask, by_bundle_run[image])
    true = server.truth[image]
    upright = dice(mask > 0, true)
    assert upright > 0.6
    assert all(upright > dice(other > 0, true) + 0.1 for other in (mask[::-1], mask[:, ::-1], mask[::-1, ::-1]))


def test_a_nifti_mask_has_its_image_s_geometry(server, client):
    mask, image = nib.load(infer(client, "scan")), nib.load(server.studies / "scan.nii.gz")
    assert mask.shape == image.shape == SIZE
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-6)
    assert mask.get_data_dtype() == np.uint8


def test_other_formats_on_request_have_the_geometry_too(client):
    """3D Slicer asks for ``.nrrd``."""
    import itk

    path = infer(client, "scan", result_extension=".nrrd", result_dtype="uint8")
    mask = itk.imread(path)
    assert list(itk.size(mask)) == [*SIZE, 1]
    np.testing.assert_allclose(list(itk.spacing(mask))[:2], [0.02, 0.03], rtol=1e-5)
    np.testing.assert_allclose(list(itk.origin(mask))[:2], [-5, 7], rtol=1e-5)
    np.testing.assert_array_equal(itk.array_from_image(mask)[0], read_mask(infer(client, "scan")))


def test_the_mask_of_a_jpeg_is_not_compressed_with_loss(client):
    assert infer(client, "photo").endswith(".png")


def test_the_threshold_can_be_chosen(client):
    sizes = [int(read_mask(infer(client, "colour", threshold=t)).sum()) for t in (0.2, 0.5, 0.8)]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_an_unknown_model_or_image_is_an_error_and_the_server_goes_on(server, client):
    weights, labels = sha256(server.bundle / "models" / "model.pt"), sorted(server.studies.glob("labels/**/*"))
    with pytest.raises(RuntimeError, match="400.*no model 'lung_segmentation'"):
        client.infer("lung_segmentation", "grey", {})
    with pytest.raises(RuntimeError, match="400.*elsewhere: no such image among the studies"):
        client.infer(MODEL, "elsewhere", {})
    client.train_start("lung_segmentation", {"max_epochs": 1})  # answered at once, and refused by its own process
    wait_for(lambda: client.train_status()["status"] not in ("SUBMITTED", "RUNNING"), 60)
    assert client.train_status()["status"] == "ERROR"
    assert "lung_segmentation" in "".join(client.train_status()["details"])
    assert MODEL in client.info()["models"]
    assert sha256(server.bundle / "models" / "model.pt") == weights
    assert sorted(server.studies.glob("labels/**/*")) == labels


def test_weights_of_another_architecture_are_refused(server, client, by_bundle_run):
    """MONAI Label's own bundle task would load what fits and go on."""
    served = server.bundle / "models" / "model.pt"
    weights = served.read_bytes()
    state = torch.load(served, weights_only=True)
    state.popitem()
    torch.save(state, served)
    try:
        with pytest.raises(RuntimeError, match="500"):
            infer(client, "grey")
    finally:
        served.write_bytes(weights)
    np.testing.assert_array_equal(read_mask(infer(client, "grey")) > 0, by_bundle_run["grey"])


def test_only_the_loopback_address_is_listened_on(server):
    """With 0.0.0.0 taken, no other address of this machine could be bound to the port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.2", server.port))
        other.listen()
        assert other.getsockname() == ("127.0.0.2", server.port)


def test_other_web_pages_may_not_read_the_answers(server):
    _, headers = server.get("/info/", Origin="https://elsewhere.example")
    assert "access-control-allow-origin" not in headers


def test_a_second_server_on_these_studies_is_refused(server):
    wait_for(lambda: scores_are_made(server), 120)
    own = server.studies / "monai_label"

    def snapshot():
        """All but what the first server goes on writing: its log and its scores."""
        files = (path for path in server.studies.rglob("*") if "logs" not in path.parts)
        return {path: path.stat().st_mtime_ns for path in files if path not in (own, own / "uncertainty.json")}

    before = snapshot()
    start = replaced(block("monai_label.md", "Start").text, PORT)
    variables = {"IMAGES": server.studies, "WORKSPACE": server.original, "PORT": server.port + 1}
    done = bash(start, server.studies.parent, check=False, **variables)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"already runs on these studies ({server.url})" in done.stderr
    assert len(before) > 10
    assert snapshot() == before


def test_active_learning_ranks_by_uncertainty(server, client):
    wait_for(lambda: scores_are_made(server), 120)
    served = [client.next_sample("uncertainty", {}) for _ in server.truth]
    names, values = [sample["id"] for sample in served], [sample["uncertainty"] for sample in served]
    assert sorted(names) == sorted(server.truth), "each is served once before one comes again"
    assert (names[0], names[-1]) == ("confusing", "clear")
    assert 1 >= values[0] > values[-1] >= 0
    assert values == sorted(values, reverse=True)


def test_an_image_that_arrives_later_is_scored_and_served(server, client):
    wait_for(lambda: scores_are_made(server), 120)
    shutil.copy2(server.studies / "grey.png", server.studies / "late.png")
    wait_for(lambda: "late" in client.datastore()["objects"], 60)
    assert client.next_sample("uncertainty", {})["id"] == "late", "never served before"
    wait_for(lambda: "late" in scores(server), 120)
    assert scores(server)["late"]["uncertainty"] == pytest.approx(scores(server)["grey"]["uncertainty"], abs=1e-9)


def test_corrected_images_fine_tune_the_segmenter(server, client, tmp_path, by_bundle_run):
    original = sha256(server.original / "models" / "model.pt")
    weights = sha256(server.bundle / "models" / "model.pt")
    volume = nib.Nifti1Image(server.truth["first"].T.astype(np.uint8)[..., None], np.diag([-1, -1, 1, 1]))
    nib.save(volume, tmp_path / "label.nii.gz")  # as 3D Slicer saves the label of a PNG
    Image.fromarray(server.truth["second"].astype(np.uint8) * 255).save(tmp_path / "label.png")
    for name, suffix in (("first", ".nii.gz"), ("second", ".png")):
        client.save_label(name, str(tmp_path / f"label{suffix}"), "final", {})
        assert "final" in labels_of(client, name)
        stored = read_mask(server.studies / "labels" / "final" / f"{name}{suffix}")
        np.testing.assert_array_equal(np.squeeze(stored) > 0, server.truth[name])

    assert client.info()["datastore"]["completed"] == 2
    unlabelled = client.info()["datastore"]["total"] - 2
    served = {client.next_sample("uncertainty", {})["id"] for _ in range(unlabelled)}
    assert not served & {"first", "second"} and len(served) == unlabelled

    client.train_start(MODEL, {"max_epochs": 1, "val_split": 0})
    assert "Epoch: 1/1" in finished_training(client)
    assert sha256(server.bundle / "models" / "model.pt") != weights
    assert sha256(server.original / "models" / "model.pt") == original, "only the copy is fine-tuned"

    mask = read_mask(infer(client, "colour")) > 0
    np.testing.assert_array_equal(mask, run_bundle(server, tmp_path)["colour"])
    assert not np.array_equal(mask, by_bundle_run["colour"])


def test_the_fine_tuned_copy_is_used_as_the_page_says(server, client, phantoms, tmp_path):
    mask = read_mask(infer(client, "colour")) > 0
    (tmp_path / "new").mkdir()
    shutil.copy2(server.studies / "colour.png", tmp_path / "new")
    variables = {"IMAGES": server.studies, "LABELLED": phantoms["evaluation"], "NEW_IMAGES": tmp_path / "new"}
    done = bash(block("monai_label.md", "Fine-tune").text, tmp_path, RESULTS=tmp_path, **variables)
    assert "2 images, mean [95 % interval]\nDice %" in done.stdout
    (segmented,) = (tmp_path / "masks").iterdir()
    assert dice(read_mask(segmented) > 0, mask) > 0.95


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_page_s_commands_for_any_program(server, client, tmp_path):
    """Over the third label, so that one is kept for validation, as MONAI Label has it by default."""
    commands = replaced(block("monai_label.md", "Connect (2)").text, shorter(server))
    (tmp_path / ".curlrc").write_text("fail\n")  # where the server refuses
    bash(commands, tmp_path, ID="photo", CURL_HOME=tmp_path)
    assert set(np.unique(read_mask(tmp_path / "mask.png"))) == {0, 1}
    assert "final" in labels_of(client, "photo")
    details = finished_training(client)
    assert "Epoch: 1/1" in details and "val_mean_dice" in details, details


def test_the_page_s_python_client(server, client, label_environment, tmp_path):
    commands = replaced(block("monai_label.md", "Connect").text, {**shorter(server), "/tmp/masks": tmp_path})
    before = final_labels(client)
    done = subprocess.run([label_environment, "-c", commands], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (labelled,) = final_labels(client) - before
    assert labelled.startswith(tuple(server.truth))
    assert "Epoch: 1/1" in finished_training(client)


def test_nothing_left_this_machine(server):
    lines = server.record.read_text().splitlines()
    assert f"{server.process.pid} guarded" in lines, "the guard was in the server"
    assert len({line.split()[0] for line in lines}) > 1, "and in the processes that it started"
    assert [line for line in lines if not line.endswith(" guarded")] == []


def shorter(server):
    """What is exchanged in the page's calls: this server's address, and one epoch."""
    return {"http://127.0.0.1:8000": server.url, '"max_epochs": 50': '"max_epochs": 1'}


def labels_of(client, image):
    return client.datastore()["objects"][image]["labels"]


def final_labels(client):
    return {image for image in client.datastore()["objects"] if "final" in labels_of(client, image)}
