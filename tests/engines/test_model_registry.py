"""An exported bundle in MLflow's model registry."""

import pytest

from monai_vessel_uda.engines.adaptation_tracking import AdaptationTracker
from monai_vessel_uda.engines.model_registry import check_model_name
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.files import sha256

from .conftest import runs


def test_a_bundle_is_registered_once_for_each_weights(workspace, client):
    bundle = workspace / "vessel_segmentation"
    (bundle / "models").mkdir(parents=True)
    (bundle / "configs").mkdir()
    (bundle / "configs" / "inference.json").write_text("{}")
    hashes = []
    for weights in ("first", "first", "second"):
        (bundle / "models" / "model.pt").write_text(weights)
        hashes.append(sha256(bundle / "models" / "model.pt"))
        adaptation = AdaptationTracker(workspace).start({})
        adaptation.log_bundle(bundle, "clinic A")
        adaptation.finish()
    versions = sorted(client.search_model_versions("name = 'clinic A'"), key=lambda version: int(version.version))
    assert [version.tags["weights_sha256"] for version in versions] == [hashes[0], hashes[2]]
    for version, weights in zip(versions, ("first", "second"), strict=True):
        folder = version.source.removeprefix("file://")
        with open(f"{folder}/models/model.pt") as file:
            assert file.read() == weights
        with open(f"{folder}/configs/inference.json") as file:
            assert file.read() == "{}"
        assert version.run_id == runs(client, workspace)[0][1].info.run_id


@pytest.mark.parametrize("name", ["", "a/b", "models:/x", "it's"])
def test_names_that_the_registry_would_refuse(name):
    with pytest.raises(InputError, match="registered_model"):
        check_model_name(name)
    assert check_model_name("Clinic A_2.1-b") == "Clinic A_2.1-b"
