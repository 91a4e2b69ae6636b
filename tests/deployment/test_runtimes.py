"""TorchScript and ONNX: the same logits within the stated tolerance, the same masks."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_vessel_uda import segmenter
from monai_vessel_uda.data.images import read_image, read_mask
from monai_vessel_uda.deployment.archive import package_bundle
from monai_vessel_uda.deployment.runtimes import FILES, TOLERANCE, OnnxNetwork, convert_bundle, largest_difference
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import load_json, save_json, sha256

from .conftest import EVERY


@pytest.fixture(scope="session")
def converted(adapted, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    bundle = shutil.copytree(adapted / "vessel_segmentation", tmp_path_factory.mktemp("runtimes") / "bundle")
    for runtime in FILES:
        convert_bundle(bundle, runtime)
    return bundle


def load(bundle, runtime):
    path = bundle / FILES[runtime]
    return torch.jit.load(path) if runtime == "torchscript" else OnnxNetwork(path)


@pytest.mark.parametrize("runtime", list(FILES))
def test_the_same_logits(converted, runtime):
    assert 0 <= largest_difference(converted, load(converted, runtime), seed=7) <= TOLERANCE


@pytest.mark.parametrize("runtime", list(FILES))
def test_the_same_masks_of_whole_images(converted, every_format, runtime, tmp_path):
    options = {"threshold": 0.485, "suffix": ".png", "probability": True}
    segmenter.segment(every_format, tmp_path / "torch", converted, **options)
    segmenter.segment(every_format, tmp_path / runtime, converted, runtime=runtime, **options)
    masks = sorted((tmp_path / "torch").rglob("*_vessels.png"))
    assert len(masks) == len(EVERY)
    for path in masks:
        other = tmp_path / runtime / path.relative_to(tmp_path / "torch")
        name = path.name.replace("_vessels", "_probability")
        expected, found = (read_image(p.with_name(name)).array.astype(int) for p in (path, other))
        assert np.abs(expected - found).max() <= 65535 * TOLERANCE
        near = np.abs(expected / 65535 - 0.485) <= TOLERANCE
        assert np.array_equal(read_mask(path)[~near], read_mask(other)[~near])


@pytest.mark.slow
def test_torchscript_runs_without_this_package(converted, every_format, without_package, tmp_path):
    """And holds the configs, which MONAI Deploy reads from inside it."""
    files = {"inference.json": "", "metadata.json": ""}
    torch.jit.load(converted / FILES["torchscript"], _extra_files=files)
    assert json.loads(files["inference.json"])["network_def"]
    images = tmp_path / "in"
    images.mkdir()
    shutil.copy(every_format / "rgb.png", images)
    segmenter.segment(images, tmp_path / "ours", converted, threshold=0.485)
    expected = read_mask(tmp_path / "ours" / "rgb_vessels.png")

    bundle = shutil.copytree(converted, tmp_path / "bundle")
    (bundle / "models" / "model.pt").unlink()
    configs = [str(bundle / "configs" / name) for name in ("inference.json", "inference_torchscript.json")]

    def run(out, *more):
        options = {"bundle_root": bundle, "dataset_dir": images, "output_dir": tmp_path / out, "threshold": 0.485}
        arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        without_package("-m", "monai.bundle", "run", "--config_file", str(configs), *arguments, *more, cwd=tmp_path)
        return read_mask(tmp_path / out / "rgb_vessels.png")

    assert np.array_equal(run("own"), expected)
    elsewhere = (bundle / FILES["torchscript"]).rename(bundle / "models" / "model_trt.ts")  # as TensorRT's is called
    assert np.array_equal(run("elsewhere", "--ckpt_path", elsewhere), expected)


@pytest.mark.parametrize("runtime", list(FILES))
def test_what_was_made_from_other_weights_is_refused(converted, phantoms, runtime, tmp_path):
    """After fine-tuning; converting again mends it."""
    bundle = shutil.copytree(converted, tmp_path / "bundle")
    for other in FILES.keys() - {runtime}:
        (bundle / FILES[other]).unlink()
    weights, metadata = bundle / "models" / "model.pt", bundle / "configs" / "metadata.json"
    torch.save({name: 1.5 * tensor for name, tensor in torch.load(weights, weights_only=True).items()}, weights)
    description = load_json(metadata)
    description["provenance"]["weights_sha256"] = sha256(weights)
    save_json(description, metadata)

    def segment(of):
        return segmenter.segment(phantoms["evaluation"] / "images", tmp_path / "out", of, runtime=runtime)

    message = f"{FILES[runtime]}: not made from models/model.pt as it is now; .* 'vessel-uda convert .*{runtime}"
    with pytest.raises(InputError, match=message):
        segment(bundle)
    with pytest.raises(InputError, match=message):
        package_bundle(bundle, tmp_path / "bundle.zip")
    assert not (tmp_path / "out").exists() and not (tmp_path / "bundle.zip").exists()
    convert_bundle(bundle, runtime)
    segment(package_bundle(bundle, tmp_path / "bundle.zip"))
    assert len(list((tmp_path / "out").glob("*_vessels.png"))) == 2


def test_what_another_program_converted_is_refused(converted, tmp_path):
    bundle = shutil.copytree(converted, tmp_path / "bundle")
    path = bundle / FILES["torchscript"]
    torch.jit.save(torch.jit.load(path), path)
    with pytest.raises(InputError, match="not made from"):
        segmenter.segment(tmp_path, tmp_path / "out", bundle, runtime="torchscript")
    path.with_name("model.ts.json").unlink()
    with pytest.raises(InputError, match="nothing says which weights .* 'vessel-uda convert"):
        segmenter.segment(tmp_path, tmp_path / "out", bundle, runtime="torchscript")


def test_what_differs_is_not_kept(adapted, tmp_path, monkeypatch):
    bundle = shutil.copytree(adapted / "vessel_segmentation", tmp_path / "bundle")
    from monai_vessel_uda.deployment import runtimes

    monkeypatch.setattr(runtimes, "largest_difference", lambda *_: 0.1)
    with pytest.raises(InputError, match="differ"):
        convert_bundle(bundle, "torchscript")
    assert sorted(path.name for path in (bundle / "models").iterdir()) == ["model.json", "model.pt"]


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", ["CPUExecutionProvider"]),
        ("cuda", [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]),
        ("cuda:1", [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]),
    ],
)
def test_onnxruntime_computes_where_it_was_asked_to(tmp_path, monkeypatch, device, expected):
    onnxruntime = pytest.importorskip("onnxruntime")
    asked = []
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)

    def session(path, providers):
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: [p if isinstance(p, str) else p[0] for p in providers])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    (tmp_path / "model.onnx").write_bytes(b"model")
    OnnxNetwork(tmp_path / "model.onnx", device)
    assert asked == [expected]


def test_says_that_onnxruntime_computes_on_the_cpu_though_a_gpu_was_asked_for(tmp_path, monkeypatch, caplog):
    onnxruntime = pytest.importorskip("onnxruntime")
    on_cpu = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, providers: on_cpu)
    (tmp_path / "model.onnx").write_bytes(b"model")
    with caplog.at_level("WARNING", "monai_vessel_uda"):
        OnnxNetwork(tmp_path / "model.onnx", "cpu")
        assert not caplog.messages
        OnnxNetwork(tmp_path / "model.onnx", "cuda")
    assert "onnx: computes on the CPU" in caplog.text


def test_refuses_what_is_not_there(adapted, tmp_path):
    with pytest.raises(InputError, match="runtime"):
        convert_bundle(adapted / "vessel_segmentation", "caffe")
    with pytest.raises(InputError, match="runtime"):
        segmenter.segment(tmp_path, tmp_path / "out", adapted, runtime="caffe")
    with pytest.raises(InputError, match="vessel-uda convert"):
        segmenter.segment(tmp_path, tmp_path / "out", adapted, runtime="onnx")
    pytest.importorskip("onnxruntime")
    (tmp_path / "model.onnx").write_text("no model")
    with pytest.raises(InputError, match="ONNX"):
        OnnxNetwork(tmp_path / "model.onnx")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="TensorRT needs an NVIDIA GPU")
def test_tensorrt(adapted, tmp_path):
    pytest.importorskip("torch_tensorrt")
    from monai.bundle import trt_export

    bundle = adapted / "vessel_segmentation"
    trt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model_trt.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        precision="fp32",
        dynamic_batchsize=[1, 4, 4],
        bundle_root=str(bundle),
    )
    network = torch.jit.load(tmp_path / "model_trt.ts")
    assert largest_difference(bundle, lambda patches: network(patches.cuda()).cpu()) < 1e-2
