"""What the command checks before it becomes the server; tests/label has the server itself."""

import fcntl
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from monai_vessel_uda import label
from monai_vessel_uda.cli import app
from monai_vessel_uda.errors import InputError

from .permissions import give_up_override


@pytest.fixture
def environment(tmp_path):
    """Looks like an environment with MONAI Label; nothing in it is ever run."""
    package = tmp_path / "environment" / "lib" / "python3" / "site-packages" / "monailabel"
    package.mkdir(parents=True)
    (package / "main.py").touch()
    return tmp_path / "environment"


@pytest.fixture
def bundle(adapted, tmp_path):
    return Path(shutil.copytree(adapted / "vessel_segmentation", tmp_path / "vessel_segmentation"))


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in ("a.png", "b.tif"):
        Image.fromarray(np.zeros((8, 6), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def started(monkeypatch):
    """Start without becoming the server; what it would become: folder it runs in, program, command, environment."""
    calls = []

    class Started(Exception):
        pass

    def record(*arguments):
        calls.append((Path.cwd(), *arguments))
        raise Started

    before = Path.cwd()
    monkeypatch.setattr(os, "execve", record)

    def start(*arguments, **options):
        with pytest.raises(Started):
            label.serve(*arguments, **options)
        return calls[-1]

    yield start
    os.chdir(before)


def contents(folder):
    """Everything below a folder; files with their content and time of change."""
    paths = folder.rglob("*")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else None for path in paths}


def refused(tmp_path, environment, studies, bundle, *options):
    """The one line that the command prints; it exits with 2 and leaves every file alone."""
    before = contents(tmp_path)
    options = ["--studies", studies, "--bundle", bundle, "--environment", environment, *options]
    result = CliRunner().invoke(app, ["label", *(str(option) for option in options)])
    assert result.exit_code == 2, result.output
    assert contents(tmp_path) == before
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_the_server_is_started_with_a_copy_of_the_bundle(studies, bundle, environment, started):
    folder, program, command, variables = started(studies, bundle, port=8123, environment=environment)
    application = studies / "monai_label"
    assert folder == application
    assert program == environment / "bin" / "python"
    assert command[1:4] == ["-m", "monailabel.main", "start_server"]
    options = dict(zip(command[4:-6:2], command[5:-6:2], strict=True))
    assert options["--host"] == "127.0.0.1"
    assert (options["--app"], options["--studies"], options["--port"]) == (str(application), str(studies), "8123")
    assert command[-6:] == ["--conf", "models", "vessel_segmentation", "--conf", "preload", "true"]
    assert (application / "main.py").read_text() == (label.APPLICATION / "main.py").read_text()
    served = application / "model" / "vessel_segmentation"
    assert (served / "models" / "model.pt").read_bytes() == (bundle / "models" / "model.pt").read_bytes()
    assert "*.dcm" in json.loads(variables["MONAI_LABEL_DATASTORE_FILE_EXT"])
    path = [str(environment / "bin"), *os.environ["PATH"].split(os.pathsep)]
    assert variables["PATH"].split(os.pathsep) == path, "MONAI Label starts torchrun by its name"


def test_a_setting_of_the_user_wins(studies, bundle, environment, started, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_SESSION_PATH", "/elsewhere")
    assert started(studies, bundle, environment=environment)[3]["MONAI_LABEL_SESSION_PATH"] == "/elsewhere"


def test_a_later_start_goes_on_with_what_was_fine_tuned(studies, bundle, environment, started):
    started(studies, bundle, environment=environment)
    weights = studies / "monai_label" / "model" / "vessel_segmentation" / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}, weights)
    tuned = weights.read_bytes()
    started(studies, bundle, environment=environment)
    started(studies, weights.parents[1], environment=environment)
    assert weights.read_bytes() == tuned


def test_a_copy_that_was_deleted_is_made_again(studies, bundle, environment, started):
    started(studies, bundle, environment=environment)
    shutil.rmtree(studies / "monai_label" / "model")
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: tensor * 2 for name, tensor in state.items()}, bundle / "models" / "model.pt")
    for _ in range(2):
        started(studies, bundle, environment=environment)
    served = studies / "monai_label" / "model" / "vessel_segmentation" / "models" / "model.pt"
    assert served.read_bytes() == (bundle / "models" / "model.pt").read_bytes()


def test_the_bundle_of_a_workspace_is_found(studies, adapted, environment, started):
    assert started(studies, adapted, environment=environment)[2][-4] == "vessel_segmentation"


def test_a_server_that_runs_here_is_not_joined_by_a_second(tmp_path, studies, bundle, environment, started):
    started(studies, bundle, port=8123, environment=environment)
    with open(studies / "monai_label" / "server.lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        message = refused(tmp_path, environment, studies, bundle)
    assert "already runs on these studies (http://127.0.0.1:8123)" in message
    started(studies, bundle, environment=environment)


def test_the_lock_ends_with_the_process_that_inherited_it(studies, bundle, environment, started, monkeypatch):
    """As the server inherits it, whatever ends the server frees the studies."""
    holder = []

    def become(python, command, variables):
        fds = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        inherited = [fd for fd in fds if fd > 2 and os.get_inheritable(fd)]
        holder.append(subprocess.Popen(["sleep", "60"], pass_fds=inherited))
        raise SystemExit

    monkeypatch.setattr(os, "execve", become)
    with pytest.raises(SystemExit):
        label.serve(studies, bundle, environment=environment)
    with pytest.raises(InputError, match="already runs"):
        label.serve(studies, bundle, environment=environment)
    holder[0].kill()
    holder[0].wait()
    with pytest.raises(SystemExit):
        label.serve(studies, bundle, environment=environment)
    holder[1].kill()
    holder[1].wait()


def test_another_that_starts_at_the_same_time_keeps_its_folder(studies, bundle, environment, monkeypatch):
    monkeypatch.setattr(label, "try_lock", lambda lock: False)
    with pytest.raises(InputError, match="already runs"):
        label.serve(studies, bundle, environment=environment)
    assert (studies / label.FOLDER).is_dir()


def test_no_monai_label(tmp_path, studies, bundle):
    message = refused(tmp_path, tmp_path / "nothing", studies, bundle)
    assert "make label" in message and "nothing" in message


def test_no_such_studies(tmp_path, environment, bundle):
    assert "absent: no such folder" in refused(tmp_path, environment, tmp_path / "absent", bundle)


def test_no_such_bundle(tmp_path, environment, studies):
    assert "absent: no such folder" in refused(tmp_path, environment, studies, tmp_path / "absent")
    assert "it has no configs/inference.json" in refused(tmp_path, environment, studies, studies)


def test_a_hash_in_a_path(tmp_path, environment, studies, bundle):
    """Of the studies, of an image, of the bundle: MONAI's configs would read it as a separator."""
    renamed = studies.rename(tmp_path / "studies#1")
    assert "studies#1: a path with '#'" in refused(tmp_path, environment, renamed, bundle)
    renamed.rename(studies)
    image = (studies / "a.png").rename(studies / "a#1.png")
    assert "a#1.png: a path with '#'" in refused(tmp_path, environment, studies, bundle)
    image.unlink()
    renamed = bundle.rename(tmp_path / "bundle#1")
    assert "bundle#1: a path with '#'" in refused(tmp_path, environment, studies, renamed)


def test_two_images_of_one_name(tmp_path, environment, studies, bundle):
    shutil.copy2(studies / "b.tif", studies / "a.nii.gz")
    message = refused(tmp_path, environment, studies, bundle)
    assert "a.png" in message and "a.nii.gz" in message and "rename" in message


def test_studies_that_cannot_be_written(tmp_path, environment, studies, bundle):
    """In a process of its own, without root's right to write everywhere."""
    studies.chmod(0o555)
    command = [sys.executable, "-m", "monai_vessel_uda.cli", "label", "--studies", studies, "--bundle", bundle]
    command += ["--environment", environment]
    before = contents(tmp_path)
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, preexec_fn=give_up_override
    )
    studies.chmod(0o755)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{studies}: cannot be written (Permission denied)" in done.stderr
    assert {path for path in tmp_path.rglob("*")} == set(before)


def test_a_bundle_without_weights(tmp_path, environment, studies, bundle):
    (bundle / "models" / "model.pt").unlink()
    assert "this bundle has no weights" in refused(tmp_path, environment, studies, bundle)


def test_weights_of_another_architecture(tmp_path, environment, studies, bundle):
    """MONAI Label alone would load what fits and go on."""
    weights = bundle / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    state.popitem()
    torch.save(state, weights)
    assert "weights of another architecture" in refused(tmp_path, environment, studies, bundle)


def test_a_pickle_is_not_opened(tmp_path, environment, studies, bundle):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    (bundle / "models" / "model.pt").write_bytes(pickle.dumps(Harm()))
    assert "expected a file of tensors" in refused(tmp_path, environment, studies, bundle)


def test_a_bundle_that_needs_this_package(tmp_path, environment, studies, bundle):
    (bundle / "configs" / "train.json").unlink()
    assert "MONAI's classes alone" in refused(tmp_path, environment, studies, bundle)


def test_weights_that_were_broken_since_the_last_start(tmp_path, environment, studies, bundle, started):
    started(studies, bundle, environment=environment)
    served = studies / "monai_label" / "model" / "vessel_segmentation"
    (served / "models" / "model.pt").write_bytes(b"half")
    message = refused(tmp_path, environment, studies, bundle)
    assert str(served) in message and "expected a file of tensors" in message


def test_another_bundle_than_at_the_first_start(tmp_path, environment, studies, bundle, started):
    started(studies, bundle, environment=environment)
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: tensor * 2 for name, tensor in state.items()}, bundle / "models" / "model.pt")
    message = refused(tmp_path, environment, studies, bundle)
    assert "holds a copy of another bundle" in message and "--bundle" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use(tmp_path, environment, studies, bundle, host):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        message = refused(tmp_path, environment, studies, bundle, "--host", host, "--port", port)
    assert message == f"error: port {port} is in use on {host}; choose another by --port\n"


def test_an_address_of_another_machine(tmp_path, environment, studies, bundle):
    message = refused(tmp_path, environment, studies, bundle, "--host", "192.0.2.1")
    assert "192.0.2.1:8000: cannot listen there" in message


def test_nothing_is_left_when_the_disk_fills_up(tmp_path, environment, studies, bundle, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    assert "No space left on device" in refused(tmp_path, environment, studies, bundle)
