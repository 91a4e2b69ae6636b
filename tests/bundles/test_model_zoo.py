"""The checks of the model zoo's ``verify_bundle.py`` in full mode, with MONAI's own functions, for all bundles.

Directory, version, metadata schema, properties of the workflows, input and output of the network, TorchScript. The zoo
checks the properties of the inference alone; here those of the training are checked, too. ``metadata.schema.json``
restates MONAI's metadata specification in this project's words, since MONAI's own schema would have to be downloaded.
"""

import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, create_workflow, verify_metadata, verify_net_in_out

from monai_vessel_uda.files import load_json
from monai_vessel_uda.settings import bundles_folder

from ..conftest import TINY

BUNDLES = ["ddpm_pretrain", "latent_mining", "co_optimization", "vessel_segmentation"]
SCHEMA = Path(__file__).with_name("metadata.schema.json")


@pytest.fixture(params=[*BUNDLES, "exported"])
def bundle(request, adapted, tmp_path):
    """A copy of a bundle, with random weights of its own architecture where it has none, as the zoo makes them."""
    if request.param == "exported":
        return Path(shutil.copytree(adapted / "vessel_segmentation", tmp_path / "bundle"))
    folder = Path(shutil.copytree(bundles_folder() / request.param, tmp_path / request.param))
    (folder / "models").mkdir(exist_ok=True)
    network = config_parser(folder).get_parsed_content("network_def")
    for parameter in network.parameters():  # a generator's last layer starts at zero
        parameter.data.add_(0.02 * torch.randn(parameter.shape))
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def config_parser(folder):
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser.read_meta(str(folder / "configs" / "metadata.json"))
    return parser


def test_files_version_and_metadata(bundle):
    for name in ("configs/metadata.json", "configs/inference.json", "LICENSE", "models/model.pt", "docs/README.md"):
        assert (bundle / name).is_file(), name
    metadata = load_json(bundle / "configs" / "metadata.json")
    assert metadata["version"] in metadata["changelog"]
    (bundle / "eval").mkdir()
    shutil.copy(SCHEMA, bundle / "eval" / "schema.json")  # found there, it is not downloaded
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(bundle / "eval" / "schema.json"))


def test_the_schema_refuses_what_is_missing(bundle, tmp_path):
    metadata = load_json(bundle / "configs" / "metadata.json")
    del metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    ConfigParser.export_config_file(metadata, str(tmp_path / "metadata.json"))
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(tmp_path / "schema.json"))


def test_input_and_output_of_the_network(bundle):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
    )


def test_torchscript(bundle):
    path = bundle / "models" / "verify_model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
    )
    parser = config_parser(bundle)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    channels = load_json(bundle / "configs" / "metadata.json")["network_data_format"]["inputs"]["image"]["num_channels"]
    image = torch.rand(2, channels, 64, 96)
    with torch.no_grad():
        expected = network(image)
        assert expected.abs().max() > 1e-2
        assert torch.allclose(torch.jit.load(path)(image), expected, rtol=1e-3, atol=1e-4)


def tiny(config, **more):
    known = set(load_json(config))
    options = {**TINY, **more}
    return {key: value for key, value in options.items() if key.split("#")[0] in known}


WORKFLOWS = [
    ("ddpm_pretrain", "train", {}),
    ("ddpm_pretrain", "inference", {}),
    ("latent_mining", "train", {}),
    ("latent_mining", "inference", {}),
    ("co_optimization", "train", {}),
    ("co_optimization", "inference", {}),
    ("vessel_segmentation", "train", {"dataset_dir": "supervised"}),
    ("vessel_segmentation", "inference", {"dataset_dir": "images"}),
]


@pytest.mark.parametrize(("name", "config", "folders"), WORKFLOWS, ids=[f"{w[0]}-{w[1]}" for w in WORKFLOWS])
def test_properties(name, config, folders, adapted, phantoms, tmp_path, monkeypatch):
    """Every required property is there and can be made, from a foreign working directory."""
    monkeypatch.chdir(tmp_path)
    workspace = shutil.copytree(adapted, tmp_path / "workspace")
    for stage in ("ddpm_target", "segmenters/mined", "co_optimization"):
        for mark in ("stage.json", "begun.json"):
            (workspace / "stages" / stage / mark).unlink(missing_ok=True)
    root = bundles_folder() / name if name != "vessel_segmentation" else workspace / name
    places = {"supervised": phantoms["supervised"], "images": phantoms["evaluation"] / "images"}
    options = tiny(root / "configs" / f"{config}.json", workspace=str(workspace), bundle_root=str(root))
    if name in ("latent_mining", "co_optimization") and config == "inference":
        options["dataset_dir"] = str(places["images"])
    options |= {key: str(places[value]) for key, value in folders.items()}
    workflow = create_workflow(
        config_file=str(root / "configs" / f"{config}.json"),
        workflow_type=config if config == "train" else "infer",
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=str(root / "configs" / "logging.conf"),
        **options,
    )
    assert workflow.check_properties() == []
    assert len(workflow.properties) > 10
    workflow.finalize()
