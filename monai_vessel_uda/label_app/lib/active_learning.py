"""Which image to label next: the one whose mask the segmenter is least sure of.

MONAI Label runs a scoring method in a process of its own and a strategy in the server. They share a file beside the
application, not the datastore's: two processes that both rewrite that one can lose a label's entry.
"""

import json
import logging
import math
import os
import tempfile
import time
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from lib.infer import VesselInferTask

logger = logging.getLogger(__name__)


class Scores:
    """Uncertainty of images by id, in a JSON file: ``{id: {"uncertainty": …, "of": [image's, weights' time]}}``.

    Args:
        path: of the file; it need not exist.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> dict[str, dict[str, Any]]:
        """All scores."""
        try:
            with open(self.path, encoding="utf-8") as file:
                scores: dict[str, dict[str, Any]] = json.load(file)
        except FileNotFoundError:
            return {}
        return scores

    def write(self, scores: dict[str, dict[str, Any]]) -> None:
        """Replace all scores at once, so that a reader sees the old or the new ones."""
        file, temporary = tempfile.mkstemp(dir=os.path.dirname(self.path), suffix=".json")
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            json.dump(scores, stream, indent=2)
        os.replace(temporary, self.path)


class UncertaintyScoring(ScoringMethod):
    """Scores the unlabelled images that have no score from these weights yet.

    Args:
        task: the segmenter.
        scores: where they go.
    """

    def __init__(self, task: VesselInferTask, scores: Scores) -> None:
        super().__init__("One minus the Dice that the segmenter expects of its own mask, averaged over flips")
        self.task, self.scores = task, scores

    def pending(self, datastore: Datastore) -> list[str]:
        """Unlabelled images that are new, changed, or scored with other weights."""
        scores = self.scores.read()
        images = datastore.get_unlabeled_images()
        return [image for image in images if scores.get(image, {}).get("of") != self._times(image, datastore)]

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score what is pending; each score counts as soon as it is there."""
        begun, pending = time.time(), self.pending(datastore)
        for image in pending:
            times = self._times(image, datastore)
            known = set(datastore.list_images())
            scores = {name: score for name, score in self.scores.read().items() if name in known}
            scores[image] = {"uncertainty": self._score(datastore.get_image_uri(image)), "of": times}
            self.scores.write(scores)
        return {"executed": len(pending), "latency": round(time.time() - begun, 3)}

    def _score(self, path: str) -> float | None:
        try:
            return self.task.uncertainty(path)
        except Exception:  # one broken file must not keep the others from being ranked
            logger.exception("%s: cannot be scored; it is ranked last", path)
            return None

    def _times(self, image: str, datastore: Datastore) -> list[int]:
        paths = (datastore.get_image_uri(image), self.task.get_path())
        return [os.stat(path).st_mtime_ns if os.path.exists(path) else 0 for path in paths]


class UncertaintyStrategy(Strategy):
    """The unlabelled image with the highest uncertainty among those not served before.

    When all were served and some are still unlabelled, the one that was served longest ago. An image that has no score
    yet comes after those that have.

    Args:
        scores: what the scoring method wrote.
    """

    def __init__(self, scores: Scores) -> None:
        super().__init__("The image whose mask the segmenter is least sure of")
        self.scores = scores

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Image to label next, or None when all are labelled."""
        scores = self.scores.read()

        def place(image: str) -> tuple[int, float, str]:
            served = datastore.get_image_info(image).get("strategy", {}).get(request["strategy"], {}).get("ts", 0)
            score = scores.get(image, {}).get("uncertainty")
            return served, math.inf if score is None else -score, image

        image = min(datastore.get_unlabeled_images(), key=place, default=None)
        return image and {"id": image, "uncertainty": scores.get(image, {}).get("uncertainty")}
