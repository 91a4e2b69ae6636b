"""One real MONAI Label server for all tests, started by the command, and the real client."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageFilter

from monai_vessel_uda.data.phantoms import write_phantoms
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.label import label_python

from ..docs.commands import ROOT, block, environment, replaced

collect_ignore = ["client_process.py", "offline"]
"""They run in other processes."""

HERE = Path(__file__).parent
MODEL = "vessel_segmentation"
AFFINE = np.array([[-0.02, 0, 0, 5], [0, -0.03, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]])
PORT = {"vessel-uda label": "exec vessel-uda label --port $PORT"}
"""Exchanged in the page's commands: a port that is free, and no shell that waits for the server."""
SIZE = (72, 96)
"""Width and height of all studies: not square, not a multiple of the patch size."""


@dataclass(frozen=True)
class Server:
    """The running server: where it answers, what it serves, what it printed and whom it wanted to reach."""

    url: str
    port: int
    process: subprocess.Popen
    studies: Path
    truth: dict[str, np.ndarray]
    bundle: Path
    original: Path
    log: Path
    record: Path

    def get(self, path, **headers):
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=60) as response:
            return json.load(response), response.headers


class Client:
    """Calls of MONAILabelClient in the MONAI Label environment."""

    def __init__(self, python, url, folder):
        command = [python, HERE / "client_process.py", url, folder]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __getattr__(self, method):
        def call(*arguments):
            print(json.dumps([method, arguments], default=str), file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer["result"]

        return call


@pytest.fixture(scope="session")
def label_environment():
    """The Python that has MONAI Label."""
    try:
        return label_python()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def fitted_bundle(adapted, phantoms, tmp_path_factory):
    """The bundle of the tiny adaptation, fitted by its own train.json until its masks look like vessels."""
    from monai.bundle import run

    bundle = Path(shutil.copytree(adapted / MODEL, tmp_path_factory.mktemp("bundle") / MODEL))
    config = json.loads((bundle / "configs" / "train.json").read_text())
    config["learning_rate"] = 0.01
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    overrides = {"bundle_root": str(bundle), "dataset_dir": str(phantoms["supervised"]), "epochs": 80}
    run(config_file=str(bundle / "configs" / "train.json"), logging_file=False, **overrides)
    return bundle


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Grey images and their vessel masks, as arrays (height, width)."""
    folder = write_phantoms(tmp_path_factory.mktemp("drawn"), seed=11, source=0, target=0, evaluation=9, supervised=0)
    width, height = SIZE

    def read(kind, index):
        return np.asarray(Image.open(folder["evaluation"] / kind / f"evaluation_{index:03d}.png"))[:height, :width]

    return [(read("images", index), read("labels", index) > 0) for index in range(9)]


def write_studies(folder, drawn):
    """Images of several kinds; returns the vessel mask of each by its id."""
    names = ["colour", "grey", "alpha", "scan", "photo", "first", "second", "clear", "confusing"]
    for name, (image, mask) in zip(names, drawn, strict=True):
        match name:
            case "grey" | "first":
                Image.fromarray(image).save(folder / f"{name}.png")
            case "alpha":
                opacity = np.where(mask, 255, 128).astype(np.uint8)
                Image.fromarray(np.dstack([image, image, image, opacity])).save(folder / "alpha.png")
            case "scan" | "second":
                nib.save(nib.Nifti1Image(image.T.astype(np.int16), AFFINE), folder / f"{name}.nii.gz")
            case "photo":
                Image.fromarray(image).save(folder / "photo.jpg", quality=95)
            case "confusing":
                blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(4)), dtype=float)
                noise = np.random.default_rng(0).normal(0, 12, image.shape)
                Image.fromarray((blurred + noise).clip(0, 255).astype(np.uint8)).save(folder / "confusing.png")
            case "clear":
                Image.fromarray(np.where(mask, 230, 25).astype(np.uint8)).save(folder / "clear.png")
            case _:
                Image.fromarray(np.dstack([image] * 3)).save(folder / f"{name}.png")
    return {name: mask for name, (_, mask) in zip(names, drawn, strict=True)}


@pytest.fixture(scope="session")
def server(label_environment, fitted_bundle, drawn, tmp_path_factory):
    """``vessel-uda label`` on a folder of studies, in a process that cannot leave this machine."""
    folder = tmp_path_factory.mktemp("label")
    studies = folder / "studies"
    studies.mkdir()
    truth = write_studies(studies, drawn)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    record, log = folder / "record.txt", folder / "server.log"
    start = replaced(block("deployment.md", "MONAI Label").text, {"make label": "make --dry-run label", **PORT})
    variables = {"IMAGES": studies, "BUNDLE": fitted_bundle, "PORT": port}
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-euc", start],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(PYTHONPATH=HERE / "offline", OFFLINE_RECORD=record, **variables),
            start_new_session=True,
        )
    bundle = studies / "monai_label" / "model" / MODEL
    url = f"http://127.0.0.1:{port}"
    running = Server(url, port, process, studies, truth, bundle, fitted_bundle, log, record)
    try:
        wait_for(lambda: process.poll() is not None or answers(running), 180)
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture(scope="session")
def client(server, label_environment, tmp_path_factory):
    """MONAI Label's client, talking to the server."""
    talking = Client(label_environment, server.url, tmp_path_factory.mktemp("client"))
    yield talking
    talking.process.stdin.close()
    talking.process.wait(30)


def wait_for(condition, seconds):
    """Wait until the condition holds."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"waited for {seconds} s"
        time.sleep(0.3)


def answers(server):
    try:
        return server.get("/info/")
    except OSError:
        return False
