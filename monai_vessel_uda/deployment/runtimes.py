"""The segmenter as TorchScript and ONNX, made by MONAI's own exporters and compared with eager PyTorch.

TensorRT is MONAI's ``python -m monai.bundle trt_export``: see ``docs/deployment.md``.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files import load_json, load_tensors, replacing, save_json, save_tensors, sha256
from .exported_bundle import bundle_network, check_bundle

logger = logging.getLogger("monai_vessel_uda")

FILES = {"torchscript": "models/model.ts", "onnx": "models/model.onnx"}
"""Where the segmenter for each runtime lies in a bundle; ``<file>.json`` beside it says what it was made from."""
TOLERANCE = 1e-4
"""Largest difference of a logit from eager PyTorch, in float32."""


def convert_bundle(bundle: Path, runtime: str) -> Path:
    """Write the bundle's segmenter for another runtime beside its weights; it takes batches of any size.

    Args:
        bundle: exported bundle.
        runtime: ``torchscript`` (``models/model.ts``, with the configs inside, as MONAI Deploy reads it) or ``onnx``
            (``models/model.onnx``, input ``image`` and output ``pred``, patches of the bundle's size).

    Returns:
        The file.

    Raises:
        InputError: an incomplete bundle, an unknown runtime, a missing library, or outputs that differ from eager
            PyTorch by more than ``TOLERANCE``; then nothing is written.
    """
    if runtime not in FILES:
        raise InputError(f"runtime: expected one of {', '.join(FILES)}, got {runtime!r}")
    check_bundle(bundle)
    path = bundle / FILES[runtime]
    with replacing(path) as temporary:
        with _weights_on_cpu(bundle) as weights:
            (_to_torchscript if runtime == "torchscript" else _to_onnx)(bundle, weights, temporary)
        # on the CPU: a GPU's convolutions would not be those of float32
        converted = torch.jit.load(temporary) if runtime == "torchscript" else OnnxNetwork(temporary)
        difference = largest_difference(bundle, converted)
        if not difference <= TOLERANCE:
            raise InputError(
                f"{path}: not written, since its outputs differ from PyTorch's by {difference:.2g}, "
                f"more than {TOLERANCE:g}"
            )
        save_json(_made_from(bundle, temporary), _record(temporary))
    logger.info("%s: outputs differ from PyTorch's by at most %.2g", path, difference)
    return path


def check_converted(bundle: Path, runtime: str) -> None:
    """Refuse a converted segmenter that was not made from the bundle's weights as they are now.

    Raises:
        InputError: no such file, or the weights or the file itself changed since ``convert_bundle`` wrote it; also one
            that ``convert_bundle`` did not write.
    """
    path = bundle / FILES[runtime]
    mend = f"make it with 'vessel-uda convert BUNDLE --to {runtime}'"
    if not path.is_file():
        raise InputError(f"{bundle}: no {FILES[runtime]}; {mend}")
    if not _record(path).is_file():
        raise InputError(f"{path}: nothing says which weights it was made from; {mend}")
    if load_json(_record(path)) != _made_from(bundle, path):
        raise InputError(f"{path}: not made from models/model.pt as it is now; {mend}")


def largest_difference(bundle: Path, converted: Callable[[Tensor], Tensor], seed: int = 0) -> float:
    """Largest absolute difference of the logits between the bundle's eager network and another form of it.

    Args:
        bundle: exported bundle.
        converted: takes patches of shape (batch, 1, patch, patch).
        seed: of the random patches in [-1, 1]; batches of one and of three are compared.
    """
    network = bundle_network(bundle).eval()
    network.load_state_dict(load_tensors(bundle / "models" / "model.pt", map_location="cpu"))
    side = load_json(bundle / "configs" / "inference.json")["patch_size"]
    generator = torch.Generator().manual_seed(seed)
    differences = []
    with torch.no_grad():
        for batch in (1, 3):
            patches = 2 * torch.rand(batch, 1, side, side, generator=generator) - 1
            differences.append(float((converted(patches) - network(patches)).abs().max()))
    return max(differences)


class OnnxNetwork(nn.Module):
    """An ONNX segmenter as a module, so that MONAI's sliding window can call it.

    Args:
        path: ``model.onnx``, with the input ``image`` and the output ``pred``.
        device: where to compute; without onnxruntime's CUDA provider on the CPU.

    Raises:
        InputError: no such file, no ONNX model, or onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("onnx: needs onnxruntime; install monai_vessel_uda[onnx]") from error
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; make it with 'vessel-uda convert BUNDLE --to onnx'")
        try:
            providers = _providers(torch.device(device), onnxruntime.get_available_providers())
            self.session = onnxruntime.InferenceSession(str(path), providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(f"{path}: expected an ONNX model ({str(error).splitlines()[0]})") from error
        if torch.device(device).type == "cuda" and self.session.get_providers()[0] != "CUDAExecutionProvider":
            logger.warning("onnx: computes on the CPU, without onnxruntime's CUDA provider (package onnxruntime-gpu)")

    def forward(self, patches: Tensor) -> Tensor:
        """Logits (batch, 2, height, width) of patches (batch, 1, height, width), on the patches' device."""
        (logits,) = self.session.run(["pred"], {"image": np.ascontiguousarray(patches.detach().cpu().numpy())})
        return torch.from_numpy(logits).to(patches.device)


def _providers(device: torch.device, available: Sequence[str]) -> list[Any]:
    """Execution providers of onnxruntime in order of preference.

    Without TensorRT, which onnxruntime would prefer: it builds an engine for every new number of windows, for minutes.
    """
    on_gpu = device.type == "cuda" and "CUDAExecutionProvider" in available
    gpu = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if on_gpu else []
    return [*gpu, "CPUExecutionProvider"]


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _made_from(bundle: Path, path: Path) -> dict[str, str]:
    return {"sha256": sha256(path), "weights_sha256": sha256(bundle / "models" / "model.pt")}


@contextlib.contextmanager
def _weights_on_cpu(bundle: Path) -> Iterator[Path]:
    """The bundle's weights as a file that also loads where there is no GPU; fine-tuning on one leaves them there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        save_tensors(load_tensors(bundle / "models" / "model.pt", map_location="cpu"), path)
        yield path


def _to_torchscript(bundle: Path, weights: Path, path: Path) -> None:
    from monai.bundle import ckpt_export

    ckpt_export(filepath=str(path), **_arguments(bundle, weights))


def _to_onnx(bundle: Path, weights: Path, path: Path) -> None:
    from monai.bundle import onnx_export

    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"onnx: needs {error.name}; install monai_vessel_uda[onnx]") from error
    batch = {0: "batch"}
    names = {"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": {"image": batch, "pred": batch}}
    with contextlib.redirect_stdout(io.StringIO()):  # torch's exporter tells every step
        onnx_export(filepath=str(path), use_trace=True, converter_kwargs=names, **_arguments(bundle, weights))


def _arguments(bundle: Path, weights: Path) -> dict[str, Any]:
    return {
        "net_id": "network_def",
        "ckpt_file": str(weights),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": str(bundle / "configs" / "inference.json"),
        "bundle_root": str(bundle),
    }
