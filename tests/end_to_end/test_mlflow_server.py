"""Against a real ``mlflow server``: a whole adaptation, one that is killed and resumed, a server that goes away."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser

from monai_vessel_uda import pipeline, segmenter
from monai_vessel_uda.engines.tracking_store import EXPERIMENT
from monai_vessel_uda.files import load_json, sha256

from ..conftest import TINY
from ..docs.commands import bash, block, environment, replaced

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")]

SERVE, USE = block("deployment.md", "MLflow").text.split("&\n")
"""The page's commands: the server, and what follows while it runs."""
SETTINGS = {**TINY, "rounds": 1, "track": True}
PATIENCE_SECONDS = 180
"""For the server's start: it makes its tables first."""


class Server:
    """One ``mlflow server`` process with one worker, its store and its artifacts in a folder."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.client = MlflowClient(self.uri)

    def start(self):
        command = ["bash", "-euc", replaced(SERVE, {"5000": self.port, "/data": self.folder})]
        log = self.folder / "server.log"
        variables = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
        with log.open("a") as file:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=variables, stdout=file, stderr=file, start_new_session=True
            )
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._healthy():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _healthy(self):
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=1).status == 200
        except OSError:
            return False

    def runs(self, parent=None):
        """Runs below ``parent``, or those below none, by name without the time of day; oldest first."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        found = self.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
        chosen = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent]
        return [(run.info.run_name.split(" 20")[0], run) for run in chosen]

    def history(self, run, metric):
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, metric)]

    def artifacts(self, run, folder=None):
        return {file.path for file in self.client.list_artifacts(run.info.run_id, folder)}

    def fetch(self, run, path, folder):
        return Path(self.client.download_artifacts(run.info.run_id, path, str(folder)))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tracked(server, prepared, phantoms, tmp_path_factory):
    """A whole adaptation and the use of its model by the page's commands, then the same adaptation again."""
    folder = tmp_path_factory.mktemp("tracked")
    workspace, results = Path(shutil.copytree(prepared, folder / "first")), folder / "results"
    results.mkdir()
    pairs = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    tiny = shlex.join(["--preset", "demo", "--no-baselines", "--device", "cpu", *pairs])
    commands = replaced(USE, {"5000": server.port, "adapt $WORKSPACE": f"adapt $WORKSPACE {tiny}"})
    # as many threads as here, or the same adaptation ends with other bits
    variables = {"WORKSPACE": workspace, "IMAGES": phantoms["evaluation"] / "images", "RESULTS": results}
    variables |= {"FUNDUS": phantoms["source"], "OCTA": phantoms["target"]}
    bash(commands, folder, OMP_NUM_THREADS=torch.get_num_threads(), **variables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        pipeline.adapt(workspace, "demo", SETTINGS, baselines=False, device="cpu", registered_model="clinic")
    return workspace


@pytest.fixture(scope="module")
def stage_runs(server, tracked):
    parent = load_json(tracked / "tracking.json")["adaptation_run"]
    return dict(server.runs(parent))


def losses(path):
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return [(int(step), float(loss)) for step, loss in rows]


def test_one_parent_and_one_child_for_each_stage_and_round(server, tracked, stage_runs):
    (parent,) = [run for name, run in server.runs() if name == "adaptation of first"]
    assert parent.info.run_id == load_json(tracked / "tracking.json")["adaptation_run"]
    segmenters = {f"segmenter_{name}" for name in ("mined", "aligned", "matched", "negated")}
    assert set(stage_runs) == {"ddpm_source", "ddpm_target", "latent_mining", "co_optimization"} | segmenters
    assert len(server.runs(parent.info.run_id)) == len(stage_runs), "the second command started no stage"
    rounds = server.runs(stage_runs["co_optimization"].info.run_id)
    assert [name for name, _ in rounds] == ["round 1"]
    assert {run.info.status for run in [parent, *stage_runs.values(), rounds[0][1]]} == {"FINISHED"}
    assert not (tracked / "mlruns.db").exists()


def test_parameters_and_the_config_that_ran(server, tracked, stage_runs, tmp_path):
    for name in ("ddpm_target", "latent_mining", "segmenter_mined", "co_optimization"):
        settings = load_json(next(tracked.rglob(f"{name.replace('segmenter_', 'segmenters/')}/stage.json")))["settings"]
        parts = {k: v for k, v in settings.items() if isinstance(v, dict)}
        leaves = {f"{k}/{part}": v for k, of in parts.items() for part, v in of.items()}
        leaves |= {k: v for k, v in settings.items() if k not in parts}
        logged = stage_runs[name].data.params
        assert logged == {k: v if isinstance(v, str) else json.dumps(v) for k, v in leaves.items()}
    config = ConfigParser(load_json(server.fetch(stage_runs["ddpm_target"], "config.json", tmp_path)))
    assert config["iterations"] == SETTINGS["iterations"]
    assert config["generator_def"]["channels"] == SETTINGS["generator_def#channels"]
    assert config.get_parsed_content("workspace") == str(tracked)
    settings = load_json(tracked / "stages" / "ddpm_target" / "stage.json")["settings"]
    assert config.get_parsed_content("settings") == settings, "what ran can be read from what was logged"
    parent = dict(server.runs())["adaptation of first"]
    assert parent.data.params["preset"] == "demo"
    assert parent.data.params["segmenter_def/channels"] == str(SETTINGS["segmenter_def#channels"])


def test_losses_of_every_epoch(server, tracked, stage_runs):
    stages = tracked / "stages"
    for name, folder in (("ddpm_source", "ddpm_source"), ("segmenter_aligned", "segmenters/aligned")):
        expected = losses(stages / folder / "losses.csv")
        assert [step for step, _ in expected] == [2, 4]
        assert server.history(stage_runs[name], "loss") == expected
    ((_, first),) = server.runs(stage_runs["co_optimization"].info.run_id)
    for network in ("generator", "segmenter"):
        expected = losses(stages / "co_optimization" / "round_01" / network / "losses.csv")
        assert server.history(first, f"{network}_loss") == expected


def test_scores(server, tracked, stage_runs):
    records = load_json(tracked / "stages" / "co_optimization" / "rounds.json")["rounds"]
    expected = [(record["round"], record["measures"]["consistency"]) for record in records]
    assert server.history(stage_runs["co_optimization"], "consistency") == expected
    mined = load_json(tracked / "stages" / "latent_mining" / "measures.json")
    assert stage_runs["latent_mining"].data.metrics["mined_feature_distance"] == mined["mined_feature_distance"]
    parent = dict(server.runs())["adaptation of first"]
    rows = load_json(tracked / "scores.json")["rows"]
    assert len(rows) == 5
    for row in rows:
        name = row["name"].replace(",", "")
        assert server.history(parent, f"test_dice/{name}") == [(0, row["scores"]["dice"]["mean"])]
        if row["exported"]:
            assert parent.data.metrics["test_dice/exported"] == row["scores"]["dice"]["mean"]
    assert "test_dice/exported" in parent.data.metrics


def test_figures_and_report(server, tracked, stage_runs, tmp_path):
    assert {"config.json", "samples.png"} <= server.artifacts(stage_runs["ddpm_source"])
    assert "preview.png" in server.artifacts(stage_runs["latent_mining"])
    ((_, first),) = server.runs(stage_runs["co_optimization"].info.run_id)
    assert {"preview.png", "preview_pseudo_masks.png"} <= server.artifacts(first)
    parent = dict(server.runs())["adaptation of first"]
    assert {"report.html", "preview_example.png", "scores.csv", "scores.json"} <= server.artifacts(parent)
    assert "manifest.json" not in server.artifacts(parent), "it names the patients' files"
    page = server.fetch(parent, "report.html", tmp_path)
    assert page.read_bytes() == (tracked / "report.html").read_bytes()


def test_the_registered_model_is_the_bundle(server, tracked, phantoms, tmp_path):
    exported, results = tracked / "vessel_segmentation", tracked.parent / "results"
    (version,) = server.client.search_model_versions("name = 'clinic'")
    parent = dict(server.runs())["adaptation of first"]
    digest = sha256(exported / "models" / "model.pt")
    assert version.run_id == parent.info.run_id
    assert version.tags["weights_sha256"] == digest
    assert server.artifacts(parent, "vessel_segmentation") == {f"vessel_segmentation/{digest[:12]}"}
    hashes = [
        {str(path.relative_to(root)): sha256(path) for path in root.rglob("*") if path.is_file()}
        for root in (exported, results / "clinic")
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0]["models/model.pt"] == digest
    segmenter.segment(phantoms["evaluation"] / "images", tmp_path, exported, device="cpu")
    written = sorted(path.name for path in tmp_path.iterdir())
    assert len(written) == 2 == len(list((results / "masks").iterdir()))
    for name in written:
        assert (tmp_path / name).read_bytes() == (results / "masks" / name).read_bytes()


def test_a_killed_run_is_never_appended_to_and_adaptations_do_not_mix(server, tracked, workspace, monkeypatch):
    before = {name: run.to_dictionary() for name, run in server.runs()}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    script = Path(__file__).with_name("killed_adapt.py")
    command = [sys.executable, str(script), str(workspace), json.dumps(SETTINGS), "ddpm_target/weights.pt"]
    died = subprocess.run(command, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    parent = load_json(workspace / "tracking.json")["adaptation_run"]
    (_, finished), (name, killed) = server.runs(parent)
    assert (name, killed.info.status, finished.info.status) == ("ddpm_target", "RUNNING", "FINISHED")
    content = (killed.data.to_dictionary(), server.history(killed, "loss"), server.artifacts(killed))
    assert len(content[1]) == 2

    pipeline.adapt(workspace, "demo", SETTINGS, baselines=False, device="cpu", registered_model="clinic")
    stages = server.runs(parent)
    assert [name for name, _ in stages][:3] == ["ddpm_source", "ddpm_target", "ddpm_target"]
    assert sum(name.startswith("ddpm") for name, _ in stages) == 3
    (_, after), (_, resumed) = stages[1:3]
    assert after.info.run_id == killed.info.run_id
    assert after.info.status == "KILLED"
    assert (after.data.to_dictionary(), server.history(after, "loss"), server.artifacts(after)) == content
    assert after.info.run_name != resumed.info.run_name
    assert resumed.info.status == "FINISHED"
    assert server.history(resumed, "loss") == content[1], "the whole curve, from the checkpoint"
    assert "samples.png" in server.artifacts(resumed)

    roots = dict(server.runs())
    assert set(roots) == {*before, "adaptation of workspace"}
    assert {name: roots[name].to_dictionary() for name in before} == before
    assert roots["adaptation of workspace"].info.run_id == parent
    assert len(server.runs(load_json(tracked / "tracking.json")["adaptation_run"])) == 8
    digest = sha256(workspace / "vessel_segmentation" / "models" / "model.pt")
    assert server.artifacts(roots["adaptation of workspace"], "vessel_segmentation") == {
        f"vessel_segmentation/{digest[:12]}"
    }
    (version,) = server.client.search_model_versions("name = 'clinic'")
    assert version.tags["weights_sha256"] == digest, "the same data and seed: the same weights, registered before"


def test_training_outlives_the_server(server, workspace, monkeypatch, caplog):
    """Lost after the start: one warning, the stage goes on; back again: nothing of the losses is missing."""
    from monai_vessel_uda.engines.tracking import StageTracker

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    table = workspace / "losses.csv"
    table.write_text("iteration,loss\n2,0.9\n")
    tracker = StageTracker(workspace, "held", {"seed": 3}).start()
    server.stop()
    try:
        step = pipeline.Step("ddpm_pretrain", "train.json", {"domain": "source"})
        began = time.monotonic()
        tracker.log_losses(table)
        assert time.monotonic() - began < 10
        assert pipeline.run_step(workspace, step, {**SETTINGS, "seed": 3})
        assert (workspace / "stages" / "ddpm_source" / "stage.json").exists()
    finally:
        server.start()
    assert caplog.text.count("going on without") == 1
    table.write_text("iteration,loss\n2,0.9\n4,0.8\n")
    tracker.log_losses(table)
    tracker.finish()
    parent = load_json(workspace / "tracking.json")["adaptation_run"]
    ((name, run),) = server.runs(parent)
    assert (name, run.info.status) == ("held", "FINISHED")
    assert server.history(run, "loss") == [(2, 0.9), (4, 0.8)]
