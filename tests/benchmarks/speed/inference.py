"""The exported bundle: seconds, megapixels per second and peak memory, at three sizes and for each runtime."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from PIL import Image
from torch import Tensor, nn

from monai_vessel_uda.data.phantoms import octa_phantom
from monai_vessel_uda.deployment.export import export_bundle
from monai_vessel_uda.deployment.exported_bundle import bundle_network
from monai_vessel_uda.deployment.runtimes import FILES, OnnxNetwork, convert_bundle
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json
from monai_vessel_uda.segmenter import segment
from monai_vessel_uda.settings import bundle_folder, preset_overrides
from monai_vessel_uda.weights import save_weights

from .measure import Options, Row, interleaved, run_child, timed_rows
from .networks import multiply_adds, parameters
from .stages import phantom_workspace

SECTION = "inference"
SIDES = (304, 1024, 4096)
FILES_AT_ONCE = 4
PHASE = "peak of the phase, for a pixel"
MOST_PIXELS_OF_VARIANTS = 1024**2
"""Above this, only eager PyTorch is measured, once, together with its memory."""


def run(options: Options) -> list[Row]:
    """Rows of the default network and of the preset's."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = phantom_workspace(Path(folder), 64, 128)
        preset = {**preset_overrides(options.preset), **options.overrides}
        cases = {"default network": {}, f"network of preset {options.preset}": preset}
        for number, (name, settings) in enumerate(cases.items()):
            if number and not settings:
                continue  # the preset has the default network
            bundle = exported(workspace, settings, Path(folder) / f"bundle_{number}")
            config = load_json(bundle / "configs" / "inference.json")
            case = f"{name}: windows of {config['patch_size']} x {config['patch_size']}, overlap {config['overlap']}"
            rows += window_and_image_rows(case, bundle, options)
            rows += file_rows(case, bundle, Path(folder) / f"files_{number}", options)
            rows += memory_rows(case, bundle, Path(folder), options)
    return rows


def exported(workspace: Path, settings: dict[str, Any], place: Path) -> Path:
    """A bundle as an adaptation exports it, with untrained weights."""
    parser = ConfigParser()
    parser.read_config(bundle_folder("co_optimization") / "configs" / "train.json")
    parser.update({key: value for key, value in settings.items() if key.startswith("segmenter_def#")})
    torch.manual_seed(0)
    network = parser.get_parsed_content("segmenter_def")
    preprocessing = load_json(workspace / "manifest.json")["preprocessing"]
    preprocessing["target"]["scale"] = 1.0
    description = {"preprocessing": preprocessing, "threshold": 0.5, "round": 0, "chosen_by": "", "scores": {}}
    weights = workspace / "stages" / "co_optimization" / "weights.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_weights(network, weights, description)
    return export_bundle(workspace, settings).rename(place)


def runtimes(bundle: Path, device: str) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The bundle's segmenter in every form that can be had here, and why the others cannot."""
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)

    def eager() -> nn.Module:
        network = bundle_network(bundle)
        network.load_state_dict(state)
        return network.to(device).eval()

    found, failed = {"eager": eager(), "channels_last": eager().to(memory_format=torch.channels_last)}, {}
    for name in FILES:
        try:
            path = convert_bundle(bundle, name)
            loaded = OnnxNetwork(path, device) if name == "onnx" else torch.jit.load(path, map_location=device).eval()
            found[name] = loaded
        except (InputError, ImportError) as error:
            failed[name] = str(error)
    return found, failed


def window_and_image_rows(case: str, bundle: Path, options: Options) -> list[Row]:
    """One batch of windows, then whole images in memory, for each runtime."""
    config = load_json(bundle / "configs" / "inference.json")
    side, batch = config["patch_size"], config["sw_batch_size"]
    found, failed = runtimes(bundle, options.device)
    windows = torch.rand(batch, 1, side, side, device=options.device) * 2 - 1
    what = f"{batch} windows"
    rows = [Row(SECTION, case, name, what, "skipped", note=why.splitlines()[0]) for name, why in failed.items()]
    macs = multiply_adds(partial(logits, found["eager"], windows)) / batch
    rows.append(Row(SECTION, case, "eager", "parameters", parameters(found["eager"]) / 1e6, "M"))
    rows.append(Row(SECTION, case, "eager", "multiply-adds", macs / 1e9, "G for one window"))
    functions = {name: partial(logits, network, windows) for name, network in found.items()}
    rows += timed_rows(SECTION, case, what, interleaved(functions, options.repeats, options.device), "eager")
    inferer = SlidingWindowInferer((side, side), batch, config["overlap"], mode="gaussian")
    for extent in (s for s in SIDES if s**2 <= MOST_PIXELS_OF_VARIANTS):
        image = torch.from_numpy(picture(extent)).to(options.device)[None, None].float() / 127.5 - 1
        whole = {name: partial(logits, partial(inferer, network=network), image) for name, network in found.items()}
        times = interleaved(whole, max(2, options.repeats * SIDES[0] // extent // 3), options.device)
        rows += timed_rows(SECTION, case, f"image of {extent} x {extent} in memory", times, "eager")
    return rows


@torch.no_grad()
def logits(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Without gradients, as the evaluator calls it."""
    return network(images)


def picture(side: int) -> np.ndarray:
    """A phantom angiogram, repeated to fill the size: speed does not depend on what is in it."""
    tile = octa_phantom(np.random.default_rng(0), SIDES[0])[0]
    times = -(-side // SIDES[0])
    return np.tile(tile, (times, times))[:side, :side]


def file_rows(case: str, bundle: Path, folder: Path, options: Options) -> list[Row]:
    """Seconds for each file of the package's own ``segment``, start to end, and of one file alone."""
    images = folder / "images"
    images.mkdir(parents=True)
    for i in range(FILES_AT_ONCE):
        Image.fromarray(picture(SIDES[0])).save(images / f"{i}.png")
    names = ["torch", *(name for name, file in FILES.items() if (bundle / file).exists())]
    rows = []
    for what, source, count in (("file", images, FILES_AT_ONCE), ("single file", images / "0.png", 1)):
        functions = {
            name: partial(segment, source, folder / name, bundle, runtime=name, device=options.device) for name in names
        }
        times = interleaved(functions, min(3, options.repeats), options.device)
        each = {name: [s / count for s in values] for name, values in times.items()}
        rows += timed_rows(SECTION, case, f"{what} of {SIDES[0]} x {SIDES[0]}, read to written", each, "torch")
    return rows


def memory_rows(case: str, bundle: Path, folder: Path, options: Options) -> list[Row]:
    """Peak memory that a file takes beyond what the same process took for the smallest, and its seconds."""
    paths = []
    for side in SIDES:
        paths.append(folder / f"{side}.png")
        Image.fromarray(picture(side)).save(paths[-1])
    text = run_child("peak_memory", bundle, options.device, *paths, threads=options.threads, on_gpu=options.on_gpu)
    result = json.loads(text.splitlines()[-1])
    first, *_ = found = result["files"]
    rows = [Row(SECTION, case, name, PHASE, peak / SIDES[-1] ** 2, "bytes") for name, peak in result["phases"].items()]
    for side, measured in zip(SIDES, found, strict=True):
        name, pixels = f"{side} x {side}", side**2
        rows.append(Row(SECTION, case, name, "read to written, seconds", measured["seconds"], "s"))
        rows.append(Row(SECTION, case, name, "throughput", pixels / 1e6 / measured["seconds"], "megapixels/s"))
        rows.append(Row(SECTION, case, name, "peak memory", measured["peak"] / 2**20, "MiB"))
        beyond = (measured["peak"] - first["peak"]) / 2**20
        own = (4 * pixels + 2 * 4 * pixels) / 2**20
        rows.append(Row(SECTION, case, name, "peak beyond the smallest image", beyond, "MiB"))
        rows.append(Row(SECTION, case, name, "image and logits", own, "MiB", note="float32: one channel in, two out"))
        if side > SIDES[0]:
            rows.append(Row(SECTION, case, name, "peak in bytes for a pixel", beyond * 2**20 / pixels, "bytes"))
    return rows
