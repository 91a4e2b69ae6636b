"""The MONAI Label application: one vessel segmentation bundle, served, fine-tuned and queried for what to label next.

``vessel-uda label`` copies this folder beside the studies and starts MONAI Label's own server on it. It runs in the
MONAI Label environment, where MONAI, torch and monailabel are installed and this package is not.
"""

import logging
import os
from typing import Any

import monailabel
import requests
from lib.active_learning import Scores, UncertaintyScoring, UncertaintyStrategy
from lib.infer import VesselInferTask
from lib.train import VesselTrainTask
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

logger = logging.getLogger(__name__)


class VesselApp(MONAILabelApp):
    """MONAI Label's server calls it; see :class:`monailabel.interfaces.app.MONAILabelApp`.

    Args:
        app_dir: this folder's copy; the bundle lies in ``model/<name>``.
        studies: folder of the images; labels go into its ``labels/final``.
        conf: ``models`` is the bundle's name.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.model = conf["models"]
        self.bundle = os.path.join(app_dir, "model", self.model)
        self.scores = Scores(os.path.join(app_dir, "uncertainty.json"))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Vessel segmentation",
            description="Retinal vessels in OCTA images. Research only; not a medical device.",
            version=monailabel.__version__,
        )

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """As MONAI Label does, but an image that is not there is an error; MONAI Label would open its own folder."""
        image = request.get("image")
        if isinstance(image, str) and not os.path.exists(image) and not self.datastore().get_image_uri(image):
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, f"{image}: no such image among the studies")
        result: dict[str, Any] = super().infer(request, datastore)
        return result

    def init_infers(self) -> dict[str, VesselInferTask]:
        """The bundle's own ``inference.json``."""
        return {self.model: VesselInferTask(self.bundle, self.conf)}

    def init_trainers(self) -> dict[str, VesselTrainTask]:
        """The bundle's own ``train.json``."""
        return {self.model: VesselTrainTask(self.bundle, self.conf)}

    def init_strategies(self) -> dict[str, Any]:
        """What a client may choose from; the first is what 3D Slicer offers first."""
        return {"uncertainty": UncertaintyStrategy(self.scores), "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, UncertaintyScoring]:
        """MONAI Label runs it in a process of its own: at the start, after training and with every next sample."""
        return {"uncertainty": UncertaintyScoring(self._infers[self.model], self.scores)}

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """As MONAI Label does, in a process of its own, but only when there is something to score."""
        if not any(scoring.pending(self.datastore()) for scoring in self._scoring_methods.values()):
            return {}
        try:
            result: dict[str, Any] = super().async_scoring(method, params)
        except requests.ConnectionError as error:
            # The training process asks the server, on the loopback address; that may not be where it listens.
            logger.warning("new scores will be made with the next sample, the server was not reached: %s", error)
            return {}
        return result
