"""Tiny phantoms and a tiny adaptation, made once for the whole session."""

import logging
import os
import shutil
import warnings
from pathlib import Path

import pytest

os.environ.pop("MLFLOW_TRACKING_URI", None)
if os.environ.get("GPU_TESTS") != "1":  # all others are for the CPU, to whose bits some compare
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: two processes of two threads on two cores crawl
    os.environ["OMP_NUM_THREADS"] = "1"

from monai_vessel_uda import pipeline, preparation
from monai_vessel_uda.data.phantoms import write_phantoms

logging.getLogger("ignite").setLevel(logging.WARNING)

MAY_BE_ABSENT = ("NVIDIA GPU", "real images are not at")
"""What tests may lack in CI; all else (curl, dciodvfy, ONNX Runtime, monai-generative, …) is installed there."""

TINY = {
    "patch_size": 32,
    "batch_size": 2,
    "generator_def#channels": [8, 16],
    "generator_def#attention_levels": [False, False],
    "generator_def#num_res_blocks": 1,
    "generator_def#num_head_channels": 8,
    "generator_def#norm_num_groups": 4,
    "generator_def#space_to_depth": 2,
    "iterations": 4,
    "source_iterations": 4,
    "source_timesteps": 1000,
    "generation_timesteps": 1000,
    "iterations_per_epoch": 2,
    "ema_momentum": 0.1,
    "round_ema_momentum": 0.1,
    "sampled_patches": 2,
    "sample_steps": 2,
    "mining_batch_size": 4,
    "sw_batch_size": 4,
    "pairs": 8,
    "measured_patches": 8,
    "steps": 6,
    "t0": 2,
    "decoding_steps": 2,
    "generation_steps": 3,
    "segmenter_def#channels": [4, 8],
    "segmenter_def#strides": [2],
    "segmenter_def#num_res_units": 1,
    "segmenter_batch_size": 2,
    "segmenter_iterations": 4,
    "segmenter_iterations_per_epoch": 2,
    "rounds": 2,
    "round_iterations": 4,
    "round_iterations_per_epoch": 2,
    "refine_iterations": 4,
    "refine_iterations_per_epoch": 2,
    "track": False,
}
"""Overrides that make every stage take about a second."""


def pytest_sessionfinish(session):
    """A test that CI skips for any other reason is a failure: what it shows would no longer be shown."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI") != "true":
        return
    skipped = [r for r in reporter.stats.get("skipped", ()) if not any(a in str(r.longrepr) for a in MAY_BE_ABSENT)]
    if skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped that CI has everything for", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Folders of 64-pixel target phantoms and 96-pixel source phantoms."""
    folder = tmp_path_factory.mktemp("phantoms")
    return write_phantoms(folder, seed=3, source=4, target=4, evaluation=2, supervised=2, size=64)


@pytest.fixture(scope="session")
def prepared(phantoms, tmp_path_factory):
    """A workspace with a manifest only; copy it before use."""
    workspace = tmp_path_factory.mktemp("prepared") / "workspace"
    preparation.prepare(
        workspace, [phantoms["source"]], phantoms["target"], phantoms["evaluation"], phantoms["supervised"], seed=3
    )
    return workspace


@pytest.fixture
def workspace(prepared, tmp_path):
    """A fresh copy of the prepared workspace."""
    return Path(shutil.copytree(prepared, tmp_path / "workspace"))


@pytest.fixture(scope="session")
def adapted(prepared, tmp_path_factory):
    """A workspace after a whole tiny adaptation, with tracking; do not change it."""
    workspace = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("adapted") / "workspace"))
    pipeline.adapt(workspace, "demo", {**TINY, "track": True}, device="cpu")
    return workspace


@pytest.fixture
def logging_restored():
    """The command line owns the process it runs in; a test process is shared."""
    loggers = [logging.getLogger(name) for name in ("monai_vessel_uda", "ignite", "monai.bundle.workflows")]
    before = [(logger, logger.level, logger.handlers, logger.propagate) for logger in loggers]
    with warnings.catch_warnings():
        yield
    for logger, level, handlers, propagate in before:
        logger.level, logger.handlers, logger.propagate = level, handlers, propagate
