import errno
import fcntl
import hashlib
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import (
    load_json,
    load_tensors,
    remove_abandoned,
    replacing,
    save_json,
    save_tensors,
    sha256,
    working_alone,
)

from .permissions import give_up_override


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    save_json({"x": 1}, path)
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert load_json(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_input_that_is_missing_is_not_blamed_on_the_disk(tmp_path):
    missing = tmp_path / "input" / "a.png"
    for name in (missing, str(missing), os.fsencode(missing)):
        with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "out" / "a.json") as temporary:
            temporary.write_text("half")
            open(name)
        assert os.fsdecode(caught.value.filename) == str(missing)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_wherever_it_is_met(tmp_path, number):
    with pytest.raises(InputError, match="a.json: cannot be written"), replacing(tmp_path / "out" / "a.json"):
        raise OSError(number, os.strerror(number), str(tmp_path / "elsewhere"))


def test_what_writing_meets_names_the_destination(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(InputError, match="file/sub/a.json: cannot be written"):  # its folder cannot be made
        save_json({}, tmp_path / "file" / "sub" / "a.json")
    with pytest.raises(InputError, match="folder: cannot be written"):  # cannot be replaced
        save_json({}, tmp_path / "folder")
    with pytest.raises(InputError, match="b.json: cannot be written"), replacing(tmp_path / "b.json") as temporary:
        (temporary.parent / "no" / "such").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="^c.json: cannot be written"), replacing("c.json") as temporary:
        (temporary / "no").write_text("")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_files_that_belong_together_move_together(tmp_path, monkeypatch):
    """Written under their own names, since one names the other; the one that was asked for comes last."""
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (moved.append(new.name), replace(old, new)))
    with replacing(tmp_path / "eye.mhd") as header:
        header.write_text("eye.zraw")
        (header.parent / "eye.zraw").write_bytes(b"pixels")
        (header.parent / "a.zraw").write_bytes(b"pixels")
        assert header.name == "eye.mhd"
    assert moved[-1] == "eye.mhd"
    assert sorted(os.listdir(tmp_path)) == sorted(moved)


def test_a_killed_write_is_never_taken_for_a_file(tmp_path):
    """What a power cut leaves in the folder matches none of the patterns by which results are found."""
    with replacing(tmp_path / "00000.pt") as temporary:
        temporary.write_bytes(b"half")
        assert not list(tmp_path.glob("*.pt"))


def test_what_killed_writers_left_is_removed_when_it_is_old(tmp_path):
    old, young = tmp_path / "round_01" / ".writing-a", tmp_path / ".writing-b"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "weights.pt").write_bytes(b"half")
    os.utime(old, (0, 0))
    (tmp_path / "weights.pt").write_bytes(b"whole")
    remove_abandoned(tmp_path)
    assert not old.exists() and young.exists()
    assert (tmp_path / "weights.pt").exists()


def test_json_is_readable_in_any_language(tmp_path):
    save_json({"image": "Außen/眼底.png"}, tmp_path / "a.json")
    assert "Außen/眼底.png" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert load_json(tmp_path / "a.json") == {"image": "Außen/眼底.png"}


def test_json_has_no_infinity(tmp_path):
    save_json({"a": float("inf"), "b": [float("nan"), 2.0]}, tmp_path / "a.json")
    assert load_json(tmp_path / "a.json") == {"a": None, "b": [None, 2.0]}


def test_tensors_round_trip_and_hash(tmp_path):
    save_tensors({"x": torch.arange(3)}, tmp_path / "a.pt")
    save_tensors({"x": torch.arange(3)}, tmp_path / "b.pt")
    assert torch.equal(load_tensors(tmp_path / "a.pt")["x"], torch.arange(3))
    assert sha256(tmp_path / "a.pt") == hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()
    with pytest.raises(InputError, match="missing.pt: cannot be read"):
        sha256(tmp_path / "missing.pt")


@pytest.mark.parametrize("content", [b"", b"not tensors", None])
def test_unreadable_tensors_name_the_file(tmp_path, content):
    path = tmp_path / "a.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="a.pt"):
        load_tensors(path)


def test_a_pickle_with_code_is_refused(tmp_path):
    torch.save({"x": os.system}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="expected a file of tensors"):
        load_tensors(tmp_path / "a.pt")


def test_broken_json_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="a.json"):
        load_json(tmp_path / "a.json")


def test_full_disk_leaves_nothing(tmp_path):
    """A file-size limit makes a real write fail, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(InputError, match="cannot be written"):
            save_tensors({"x": torch.zeros(100_000)}, tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


WORKING = """
import sys
from monai_vessel_uda.files import working_alone
with working_alone(sys.argv[1]):
    print("at work", flush=True)
    sys.stdin.read()
"""


def test_one_process_works_in_a_folder_until_it_ends_or_is_killed(tmp_path):
    for end in (lambda process: process.stdin.close(), subprocess.Popen.kill):
        command = [sys.executable, "-c", WORKING, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "at work\n"
            with pytest.raises(InputError, match=f"^{tmp_path}: another command works"), working_alone(tmp_path):
                pytest.fail("both are at work")
            end(process)
            process.wait()
        with working_alone(tmp_path):
            assert list(tmp_path.iterdir())
        assert not list(tmp_path.iterdir())


def test_the_folder_is_free_again_after_a_failure(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), working_alone(tmp_path):
            raise KeyError


def test_folders_without_locks_and_those_that_cannot_be_written_stop_nobody(tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    command = [sys.executable, "-c", WORKING, str(closed)]
    done = subprocess.run(command, input="", capture_output=True, text=True, preexec_fn=give_up_override)
    assert (done.stdout, done.returncode) == ("at work\n", 0), done.stderr
    with working_alone(tmp_path / "missing"):
        assert not (tmp_path / "missing").exists()

    def unsupported(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with working_alone(tmp_path), working_alone(tmp_path):
        pass
