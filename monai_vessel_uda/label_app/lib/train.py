"""Fine-tuning with the bundle's ``train.json`` on the images whose labels were saved as final."""

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.tasks.train.bundle import BundleTrainTask


class VesselTrainTask(BundleTrainTask):
    """MONAI Label's bundle training, with weights that must fit.

    Args:
        path: the bundle.
        conf: configuration of the application.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        super().__init__(path, conf, load_strict=True)
        if not self.is_valid():
            raise MONAILabelException(MONAILabelError.APP_INIT_ERROR, f"{path}: no configs/train.json")

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        items = [{"image": item["image"], "label": item["label"]} for item in datastore.datalist()]
        if not items:
            raise MONAILabelException(
                MONAILabelError.INVALID_INPUT, "no image has a final label yet; save labels first"
            )
        for path in (path for item in items for path in item.values() if "#" in path):
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, f"{path}: rename it, bundle configs split at '#'")
        return items

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[dict[str, Any]]) -> None:
        """Start from the weights that were asked for, or from none, at which MONAI Label 0.8.5 fails."""
        train_handlers[:] = [h for h in train_handlers if not h["_target_"].endswith("CheckpointLoader")]
        if pretrained:
            super()._load_checkpoint(model_pytorch, pretrained, train_handlers)
