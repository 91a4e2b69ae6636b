r"""Sec. 2.3: segmenter and conditional generator improve each other for K rounds.

Round k, from :math:`S_{k-1}` and :math:`\epsilon^B_{k-1}`:

1. pseudo-masks :math:`\hat y^B = S_{k-1}(x^B)` for the whole target set;
2. :math:`\epsilon^B_k`: :math:`\epsilon^B_{k-1}` fine-tuned on :math:`(x^B, \hat y^B)`;
3. images :math:`x^{A \to B}_k` for the source masks :math:`y^A` from :math:`\epsilon^B_k`;
4. :math:`S_k`: :math:`S_{k-1}` refined on :math:`(x^{A \to B}_k, y^A)`.

Every step leaves its result in the round's folder and is skipped if it is there, so that an interrupted run continues
where it stopped and ends with the same bits (on a GPU: up to rounding). Several processes go through the steps
together: they share trainings, images and shards, the first writes, and the others read what it wrote.
"""

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.transforms import Transform
from torch import Tensor, nn
from torch.utils.data import ConcatDataset

from ..data.patches import PatchDataset, ShardedPairs
from ..diffusion import MovingAverage
from ..errors import InputError
from ..files import load_json, load_tensors, save_json, save_tensors
from ..metrics.distributions import feature_distance, intensity_distances
from ..metrics.label_free import mask_faithfulness
from ..preview import save_contact_sheet
from ..progress import track
from ..seeding import stable_seed
from ..weights import load_weights, save_weights
from .confidence import ConfidentCentres
from .label_free import choose, measure_segmenter
from .latent_mining import IntensityRange, LatentMining
from .pairs import Start, check_start, regenerate_pairs
from .prediction import Inferer, pseudo_masks, shared_vessel_probabilities, target_probabilities, with_masks

logger = logging.getLogger("monai_vessel_uda")

HARDLY_SEEN = 0.3
"""Faithfulness below which a round warns of its images: working rounds had 0.57 and more, a failed one 0.09."""

once = idist.one_rank_only(with_barrier=True)
"""Of several processes the first calls the function; none goes on before that is done."""
save_weights_once = once(save_weights)


@dataclass
class CoOptimization:
    """K rounds over one folder.

    Args:
        segmenter: a segmenter of the architecture of the candidates.
        generator: a generator of the architecture of the target generator.
        candidates: weights of the segmenters to start from, by name, in order of preference.
        generator_weights: weights of the target generator before round 1.
        mined: folder of the mined shards.
        target: prepared target items (``image``, ``fov``, ``centres``; no labels).
        inferer: sliding window.
        mining: how images are generated.
        patch_transform: random patch of an image or (image, label) item.
        pair_transform: random flips of a generated pair.
        train_generator: ``(network=, dataset=, ema=, output_dir=, label=) -> trainer``.
        train_segmenter: ``(network=, dataset=, output_dir=, label=) -> trainer``.
        description: what goes into the JSON beside every segmenter's weights (the preprocessing).
        output_dir: where the rounds go.
        rounds: K, at least 1.
        start: what a round generates from: the mined ``latents``, pure ``noise``, or ``both``.
        pairs: pairs generated each round from each of these; one for each mask by default, from noise also more.
        threshold: of the pseudo-masks: ``auto`` for the segmenter's own (where its outlines lie best on the target
            images' edges), a number, or None for soft masks.
        ensemble: how many of the last segmenters make the pseudo-masks, by their mean probability and mean threshold.
        confident: which patches of the target the generator is fine-tuned on; all by default.
        with_mined: refine the segmenter on the mined pairs too, beside the generated ones.
        reinitialise: train each round's segmenter from scratch (the release's way) instead of refining it.
        ema_momentum: share of the new weights in the generator's moving average, at each step of the fine-tuning. Times
            the steps of a round it should be about 4 or more, or the average is still that of the round before.
        measured_patches: patches compared for the distribution distances, generated and real, predicted and source.
        device: where to compute.
        seed: of all draws.
        on_round: called with (round, measures, folder) after each round, for tracking.
    """

    segmenter: nn.Module
    generator: nn.Module
    candidates: Mapping[str, str | Path]
    generator_weights: str | Path
    mined: str | Path
    target: Sequence[Mapping[str, Any]]
    inferer: Inferer
    mining: LatentMining
    patch_transform: Transform
    pair_transform: Transform
    train_generator: Callable[..., Engine]
    train_segmenter: Callable[..., Engine]
    output_dir: str | Path
    description: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 6
    start: Start = "noise"
    pairs: int | None = None
    threshold: float | Literal["auto"] | None = "auto"
    ensemble: int = 1
    confident: ConfidentCentres | None = None
    with_mined: bool = False
    reinitialise: bool = False
    ema_momentum: float = 1e-3
    measured_patches: int = 128
    device: torch.device | str = "cpu"
    seed: int = 0
    on_round: Callable[[int, Mapping[str, Any], Path], None] | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds: expected K of at least 1, got {self.rounds}")
        if self.ensemble < 1:
            raise InputError(f"pseudo_mask_ensemble: expected at least 1 segmenter, got {self.ensemble}")
        check_start(self.start, self.mining)
        if isinstance(self.threshold, str) and self.threshold != "auto":
            raise InputError(f"threshold: expected 'auto', a number or null, got {self.threshold!r}")
        self.output_dir, self.mined = Path(self.output_dir), Path(self.mined)
        self._seen: dict[int, list[Tensor]] = {}
        self._untrained = copy.deepcopy(self.segmenter.state_dict())

    def engine(self) -> Engine:
        """Outer Ignite engine: one epoch is one round; finished rounds are skipped."""
        engine = Engine(lambda outer, _: self.run_round(outer.state.epoch))

        @engine.on(Events.STARTED)
        def skip_finished(outer: Engine) -> None:
            self.run_start()
            while outer.state.epoch < self.rounds and (self._folder(outer.state.epoch + 1) / "measures.json").exists():
                outer.state.epoch += 1
            outer.state.iteration = outer.state.epoch

        engine.add_event_handler(Events.COMPLETED, lambda outer: self.conclude())
        return engine

    def run(self) -> dict[str, Any]:
        """Run or resume all rounds; returns what :meth:`conclude` wrote."""
        self.engine().run([0], max_epochs=self.rounds, epoch_length=1)
        return load_json(Path(self.output_dir) / "rounds.json")

    def run_start(self) -> None:
        """Round 0: measure all candidates without labels and take the best."""
        folder = self._folder(0)
        if (folder / "measures.json").exists():
            return
        measures: dict[str, Any] = {}
        for name, path in self.candidates.items():
            load_weights(self.segmenter.to(self.device), path)
            seen = self._segmented(self.segmenter, f"measuring {name} without masks")
            measures[name] = self._measure_segmenter(self.segmenter, seen)
        chosen, scores = choose(measures)
        load_weights(self.segmenter, self.candidates[chosen])
        description = {"round": 0, "started_from": chosen, "threshold": measures[chosen]["threshold"]}
        save_weights_once(self.segmenter, folder / "segmenter" / "weights.pt", {**self.description, **description})
        record: dict[str, Any] = {"round": 0, "candidates": measures, "scores": scores, "started_from": chosen}
        once(save_json)({**record, "measures": measures[chosen]}, folder / "measures.json")

    def run_round(self, k: int) -> dict[str, Any]:
        """One round, see the module's head."""
        folder = self._folder(k)
        items = self._pseudo_labelled(k, folder)
        generated = self._generate(k, folder, items)
        refined = self._refine(k, folder)
        measures = {**self._measure_segmenter(refined, self._probabilities(k)), **generated}
        described = {**self.description, "round": k, "threshold": measures["threshold"]}
        save_weights_once(refined, folder / "segmenter" / "weights.pt", described)
        record = {"round": k, "measures": measures, "vessel_fraction_pseudo": _fraction(items)}
        once(save_json)(record, folder / "measures.json")
        if self.on_round is not None:
            once(self.on_round)(k, measures, folder)
        return record

    def conclude(self) -> dict[str, Any]:
        """Compare all rounds by the label-free criterion; export the best one's weights beside ``rounds.json``."""
        records = [load_json(self._folder(k) / "measures.json") for k in range(self.rounds + 1)]
        best, scores = choose({str(record["round"]): _numbers(record["measures"]) for record in records})
        for record, score in zip(records, scores.values(), strict=True):
            record["score"], record["chosen"] = score, str(record["round"]) == best
        for before, after in zip(records, records[1:], strict=False):
            _, pair = choose({"before": _numbers(before["measures"]), "after": _numbers(after["measures"])})
            after["worse_than_before"] = pair["after"] < pair["before"]
            if after["worse_than_before"]:
                logger.warning("round %d made the label-free measures worse", after["round"])
        exported = records[int(best)]["measures"]
        if _numbers(exported)["boundary_contrast"] <= 0:
            logger.warning(
                "the exported segmenter (round %s) has probably failed: the outlines of its masks lie no better on the "
                "target images' edges than an empty mask would (boundary contrast %.3g); look at its masks before "
                "you use them",
                best,
                exported["boundary_contrast"],
            )
        description = {
            **self.description,
            "round": int(best),
            "threshold": exported["threshold"],
            "chosen_by": "label-free measures",
            "scores": scores,
        }
        save_weights_once(self._segmenter_of(int(best)), Path(self.output_dir) / "weights.pt", description)
        summary = {"rounds": records, "exported_round": int(best), "started_from": records[0]["started_from"]}
        once(save_json)(summary, Path(self.output_dir) / "rounds.json")
        return summary

    def _pseudo_labelled(self, k: int, folder: Path) -> list[dict[str, Any]]:
        """Step 1: the target items with their pseudo-masks, and with fewer ``centres`` if only sure patches count."""
        path, sure = folder / "pseudo_masks.pt", folder / "confident_centres.pt"
        if not path.exists():
            probabilities, threshold = self._last_probabilities(k)
            masks = pseudo_masks(probabilities, threshold)
            once(self._save_confident)(probabilities, masks, sure)
            once(save_tensors)([mask if self.threshold is None else mask.byte() for mask in masks], path)
        items = with_masks(self.target, [mask.float() for mask in load_tensors(path)])
        if self.confident is not None:
            items = [{**item, "centres": centres} for item, centres in zip(items, load_tensors(sure), strict=True)]
        return items

    def _last_probabilities(self, k: int) -> tuple[list[Tensor], float | None]:
        """Mean probabilities of the target images by the segmenters before round k, and where to cut them."""
        last = range(max(0, k - self.ensemble), k)
        found = [self._probabilities(j) for j in last]
        self._seen = {j: seen for j, seen in self._seen.items() if j > k - self.ensemble}  # what round k + 1 needs
        if self.threshold == "auto":
            own = [load_json(self._folder(j) / "measures.json")["measures"]["threshold"] for j in last]
            threshold: float | None = sum(own) / len(own)
        else:
            threshold = self.threshold  # type: ignore[assignment]
        return [sum(of_one) / len(last) for of_one in zip(*found, strict=True)], threshold  # type: ignore[misc]

    def _probabilities(self, k: int) -> list[Tensor]:
        """Of the target images by the segmenter of round k, for its measures and the next round's pseudo-masks."""
        if k not in self._seen:
            self._seen[k] = self._segmented(self._segmenter_of(k), f"round {k}: segmenting the target")
        return self._seen[k]

    def _segmented(self, segmenter: nn.Module, label: str) -> list[Tensor]:
        return list(track(target_probabilities(segmenter, self.target, self.inferer), label, len(self.target)))

    def _segmenter_of(self, k: int) -> nn.Module:
        """``self.segmenter`` with the weights of round k."""
        load_weights(self.segmenter.to(self.device), self._folder(k) / "segmenter" / "weights.pt")
        return self.segmenter

    def _save_confident(self, probabilities: Sequence[Tensor], masks: Sequence[Tensor], path: Path) -> None:
        if self.confident is not None:
            known = zip(probabilities, masks, self.target, strict=True)
            save_tensors([self.confident(p, m, item.get("centres", torch.ones_like(m))) for p, m, item in known], path)

    def _generate(self, k: int, folder: Path, items: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Steps 2 and 3; returns what can be said about the images without masks."""
        regenerate_pairs(
            self.mining,
            self._fine_tune(k, folder, items),
            Path(self.mined),
            self._intensity,
            start=self.start,
            output_dir=folder / "pairs",
            round_number=k,
            pairs=self.pairs,
            device=self.device,
            label=f"round {k}: generating",
        )
        judge = self._segmenter_of(k - 1)  # which was not trained on these images
        measures = self._measure_generated(judge, ShardedPairs(str(folder / "pairs")))
        if measures["faithfulness"] < HARDLY_SEEN:
            logger.warning(
                "round %d: masks are hardly found in the images drawn for them (faithfulness %.2f); look at %s. Where "
                "the images do not show them, fine-tune the generator for longer (round_iterations) or draw from a "
                "less noisy timestep (generation_timesteps)",
                k,
                measures["faithfulness"],
                folder / "preview.png",
            )
        return measures

    def _fine_tune(self, k: int, folder: Path, items: Sequence[Mapping[str, Any]]) -> nn.Module:
        """Step 2; returns ``self.generator`` with the EMA weights."""
        path = folder / "generator" / "weights.pt"
        if not path.exists():
            before = self.generator_weights if k == 1 else self._folder(k - 1) / "generator" / "weights.pt"
            load_weights(self.generator.to(self.device), before)
            dataset = PatchDataset(items, self.patch_transform, stable_seed(self.seed, "fine-tune", k))
            ema = MovingAverage(self.generator, momentum=self.ema_momentum)
            self.train_generator(
                network=self.generator,
                dataset=dataset,
                ema=ema,
                output_dir=path.parent,
                label=f"round {k}: fine-tuning the generator",
            ).run()
            schedule = self.mining.schedule
            learnt = {"trained_timesteps": self.mining.generation_timesteps, "schedule": schedule.name}
            save_weights_once(ema.ema_model, path, {"round": k, **learnt})
            (path.parent / "checkpoint.pt").unlink(missing_ok=True)
        load_weights(self.generator.to(self.device), path)
        return self.generator

    def _refine(self, k: int, folder: Path) -> nn.Module:
        """Step 4; returns ``self.segmenter`` with the refined weights."""
        path = folder / "segmenter" / "weights.pt"
        if not path.exists():
            segmenter = self._segmenter_of(k - 1)
            if self.reinitialise:
                segmenter.load_state_dict(self._untrained)
            folders = [folder / "pairs", *([self.mined] if self.with_mined else [])]
            pairs: list[Any] = [ShardedPairs(str(place)) for place in folders]
            dataset = PatchDataset(ConcatDataset(pairs), self.pair_transform, stable_seed(self.seed, "refine", k))
            self.train_segmenter(
                network=segmenter,
                dataset=dataset,
                output_dir=path.parent,
                label=f"round {k}: refining the segmenter",
            ).run()
            save_weights_once(segmenter, path, {**self.description, "round": k})
            (path.parent / "checkpoint.pt").unlink(missing_ok=True)
        return self._segmenter_of(k)

    def _measure_segmenter(self, segmenter: nn.Module, probabilities: Sequence[Tensor]) -> dict[str, float]:
        return measure_segmenter(
            segmenter,
            self.target,
            probabilities,
            self.inferer,
            source_masks=self._source_masks,
            patch_transform=self.patch_transform,
            seed=self.seed,
        )

    def _measure_generated(self, judge: nn.Module, pairs: ShardedPairs) -> dict[str, float]:
        """How real the generated images look, and whether a segmenter sees the masks that they were made from."""
        count = min(len(pairs), self.measured_patches)
        chosen = [pairs[i * len(pairs) // count] for i in range(count)]  # of all, as those from latents come first
        images, masks = (torch.stack([pair[key] for pair in chosen]) for key in ("image", "label"))
        seen = torch.stack(list(shared_vessel_probabilities(judge, list(images), self.inferer)))
        real = self._real_patches
        intensity = intensity_distances(images.numpy(), real.numpy())
        return {
            "feature_distance": feature_distance(images, real),
            "faithfulness": mask_faithfulness(seen, masks),
            **{f"intensity_{name}": value for name, value in intensity.items()},
        }

    @cached_property
    def _real_patches(self) -> Tensor:
        patches = PatchDataset(self.target, self.patch_transform, stable_seed(self.seed, "real patches"))
        return torch.stack([patches[i]["image"] for i in range(self.measured_patches)])

    @cached_property
    def _source_masks(self) -> Tensor:
        return torch.stack([pair["label"] for pair in ShardedPairs(str(self.mined))[: self.measured_patches]])

    @cached_property
    def _intensity(self) -> IntensityRange:
        return IntensityRange.of(self._real_patches)

    def _folder(self, k: int) -> Path:
        return Path(self.output_dir) / f"round_{k:02d}"


def save_round_preview(folder: Path, target: Sequence[Mapping[str, Any]], rows: int = 4) -> None:
    """Real target images beside their pseudo-masks (the generated pairs have their own preview)."""
    masks = load_tensors(folder / "pseudo_masks.pt")[:rows]
    side = [min(sizes) for sizes in zip(*(mask.shape[1:] for mask in masks), strict=True)]
    crop = (slice(None), *(slice(0, s) for s in side))
    images = torch.stack([target[i]["image"][crop] for i in range(len(masks))])
    drawn = torch.stack([2 * mask[crop].float() - 1 for mask in masks])  # in [-1, 1], as soft masks are drawn, too
    save_contact_sheet([images, drawn], folder / "preview_pseudo_masks.png")


def _fraction(items: Sequence[Mapping[str, Any]]) -> float:
    masks = [item["label"] for item in items]
    return float(sum(float(m.sum()) for m in masks) / sum(m.numel() for m in masks))


def _numbers(measures: Mapping[str, float | None]) -> dict[str, float]:
    """Measures as read back from JSON, where null stands for a degenerate one."""
    return {key: math.inf if value is None else value for key, value in measures.items()}
