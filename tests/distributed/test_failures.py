"""A process that fails ends the job soon, and its message is the one that is read."""

import errno
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from monai_vessel_uda.engines import distributed as processes
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.methods.pairs import write_shards
from monai_vessel_uda.settings import bundles_folder

from . import trainings
from .launch import SECONDS, copy_without, run_bundle, torchrun


@pytest.mark.slow
def test_bad_input_of_one_process_is_one_line(adapted, tmp_path):
    """The second finds no weights, while the first writes its shards and waits."""
    workspace = copy_without(adapted, tmp_path / "workspace", "latent_mining")
    weights = "$'/nowhere/weights.pt' if not @first else @workspace + '/stages/ddpm_source/weights.pt'"
    result = run_bundle(
        "latent_mining", "mine.json", "multi_gpu_mine.json", workspace=workspace, source_weights=weights
    )
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: /nowhere/weights.pt: no such file"]
    own, summary = result.stderr.split("ChildFailedError", maxsplit=1)
    assert own.count("Traceback") == 1, "that of torchrun itself"
    assert "InputError: /nowhere/weights.pt: no such file" in summary.split("Root Cause")[1]
    assert not (workspace / "stages" / "latent_mining" / "stage.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["defect", "killed"])
def test_the_failure_of_one_process_ends_a_training(tmp_path, how):
    """The first process waits for the gradients of the second, with a timeout of hours."""
    started = time.monotonic()
    result = torchrun(Path(trainings.__file__), tmp_path, how)
    assert time.monotonic() - started < SECONDS / 2
    assert result.returncode != 0
    cause = result.stderr.split("Root Cause")[1]
    assert "rank      : 1" in cause
    if how == "defect":
        assert "ZeroDivisionError: a defect in the second process" in cause
        own = result.stderr.split("ChildFailedError")[0]
        assert own.count("ZeroDivisionError: a defect in the second process") == 1
        assert "Connection closed" not in own
    else:
        assert "SIGKILL" in cause


@pytest.mark.slow
def test_without_torchrun_the_overlay_is_refused(workspace):
    folder = bundles_folder() / "ddpm_pretrain" / "configs"
    files = str([str(folder / name) for name in ("train.json", "multi_gpu_train.json")])
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, f"--workspace={workspace}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert re.search(r"^error: LOCAL_RANK: not set; start this config with 'torchrun", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert not (workspace / "stages").exists()


class TestSeparateDisks:
    """Machines that do not see the same workspace are told so, rather than left waiting or with half of the data."""

    def test_a_checkpoint_that_not_all_see(self, monkeypatch, tmp_path):
        trainer, _ = trainings.generator_training(tmp_path)
        monkeypatch.setattr("ignite.distributed.all_gather", lambda iteration: [iteration, 3])
        with pytest.raises(InputError, match=r"checkpoint.pt: .* at steps \[0, 3\]; keep the workspace in a folder"):
            trainer.run()

    def test_shards_that_not_all_see(self, monkeypatch, tmp_path):
        monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
        monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
        with pytest.raises(InputError, match=r"00000.pt: written by another process but not seen here"):
            write_shards(lambda numbers: {"image": torch.zeros(len(numbers), 1, 2, 2)}, tmp_path, 6, 2, "mining")
        assert [path.name for path in tmp_path.iterdir()] == ["00001.pt"], "the second of three is this process's"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("t0: expected less"), 2, "error: t0: expected less\n"),
        (OSError(errno.ENOSPC, "No space left on device", "weights.pt"), 2, "error: weights.pt: the disk is full; "),
        (RuntimeError("defect"), 1, "Traceback"),
    ],
)
def test_errors_are_reported_as_everywhere_else(monkeypatch, capsys, error, code, said):
    recorded = []
    monkeypatch.setattr(processes, "_exit_code", 0)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0)
    monkeypatch.setattr(processes.faulthandler, "dump_traceback_later", lambda *args, **options: None)
    monkeypatch.setattr(processes, "get_error_handler", lambda: SimpleNamespace(record_exception=recorded.append))
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = error
    processes._end_job(RuntimeError, wrapped, None)
    assert processes._exit_code == code
    assert capsys.readouterr().err.startswith(said) or code == 1
    assert isinstance(recorded[0], InputError) == (code == 2)
