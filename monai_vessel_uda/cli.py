"""``vessel-uda``: parses, calls one function of the pipeline, prints what it returns.

What a user can mend (:func:`~monai_vessel_uda.errors.mendable`) becomes one line on stderr and exit code 2.
The pipeline is imported inside the commands, so that ``--help`` does not wait for torch.
"""

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from . import __version__
from .errors import InputError, mendable
from .progress import log_to_stderr


class OneLineErrors(TyperGroup):
    """The commands, with one line and an exit code for what a user can mend."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for; anything unexpected keeps its traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _stop("interrupted; run the same command again to continue", 130)
        except Exception as error:
            message = mendable(error)
            if message is None:
                raise
            _stop(f"error: {message}", 2)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vessel-uda {__version__}")
        raise typer.Exit()


def _value(text: str) -> Any:
    """Value of an option that may be a number, a list or a mapping (JSON) or else a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


WorkspaceArgument = Annotated[Path, typer.Argument(help="Folder of this adaptation; made if it does not exist.")]
BUNDLE = "A vessel_segmentation bundle, or a workspace that holds one."
BUNDLE_OR_ZIP = "A vessel_segmentation bundle, its zip, or a workspace that holds one."
SourceOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--source",
        help="Folder of source images with vessel masks; of a known data set's root, the training part. Repeat it for "
        "several folders.",
    ),
]
TargetOption = Annotated[
    Path | None,
    typer.Option(
        "--target",
        help="Folder of target images; of a known data set's root, the training part. Masks in it are never looked at.",
    ),
]
EvaluationOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of other target images with masks, for scores and nothing else; of a known data set's root, the "
        "test part."
    ),
]
UpperBoundOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of other target images with masks, to train the upper bound of the table; of a known data set's "
        "root, the training part. Needs --evaluation and --baselines."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="Scale of the job: full (a GPU), small (CPU cores), demo (phantoms) or paper (as full, but sampled as the "
        "paper does). Default: preset and --set that the workspace was begun with; at first full where there is a GPU, "
        "small elsewhere."
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="id=value: any id of the bundle configs, value as JSON. Repeatable."),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU where there is one.")]
ViewsOption = Annotated[
    int, typer.Option(help="Mirrored views that are averaged: 1, 2, 4 or 8. More are better and slower.")
]

ScaleOption = Annotated[
    float | None, typer.Option(help="Working pixels for one pixel, if the resolution is not the training's.")
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Probability from which on a pixel is vessel. Default: the segmenter's own.")
]
RuntimeOption = Annotated[str, typer.Option(help="torch, torchscript or onnx; 'convert' makes the last two.")]


@app.callback()
def set_up(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From labelled fundus photographs to a vessel segmenter for OCTA images that have no masks.

    Research only; not a medical device.
    """
    log_to_stderr()


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(help="How many seeds.", min=1)] = 3,
    seed: SeedOption = 0,
    jobs: Annotated[
        int | None,
        typer.Option(help="How many seeds side by side. Default: all, but at most two for each CPU thread.", min=1),
    ] = None,
) -> None:
    """Run the whole job on drawn phantoms, once for each seed, and print the scores."""
    from .demo import run_demo

    typer.echo(run_demo(folder, range(seed, seed + seeds), jobs))


@app.command()
def prepare(
    workspace: WorkspaceArgument,
    source: SourceOption = None,
    target: TargetOption = None,
    evaluation: EvaluationOption = None,
    upper_bound: UpperBoundOption = None,
    grey: Annotated[
        str,
        typer.Option(
            help="Grey values of colour images: auto, luma, green, red or blue, or JSON such as "
            '\'{"source": "green", "target": "luma"}\'.'
        ),
    ] = "auto",
    source_polarity: Annotated[str, typer.Option(help="Source vessels: auto, bright or dark.")] = "auto",
    target_polarity: Annotated[str, typer.Option(help="Target vessels: auto, bright or dark.")] = "auto",
    target_scale: Annotated[float, typer.Option(help="Working pixels for one target pixel.")] = 1.0,
    source_scale: Annotated[
        str,
        typer.Option(
            help="Working pixels for one source pixel. auto: source masks become as wide as the target's vessels; "
            "vesselness: the same, but the source's width is measured by the ridge filter, too, not on its masks; "
            "nominal: equal fields of view; or a factor, or JSON with one of these for each data set."
        ),
    ] = "auto",
    flatten: Annotated[bool, typer.Option(help="Flatten the background of the source.")] = True,
    match: Annotated[bool, typer.Option(help="Match the source's intensities to the target's.")] = True,
    seed: SeedOption = 0,
) -> None:
    """Find and check the images, and decide how both kinds are brought into one space (manifest.json)."""
    from . import preparation

    if not source or target is None:
        raise InputError("prepare: expected --source (once or more) and --target, each with a folder")
    preprocessing = {
        "grey": _value(grey),
        "source_polarity": source_polarity,
        "target_polarity": target_polarity,
        "source_scale": _value(source_scale),
        "target_scale": target_scale,
        "flatten": flatten,
        "match": match,
    }
    typer.echo(preparation.prepare(workspace, source, target, evaluation, upper_bound, seed=seed, **preprocessing))


@app.command()
def adapt(
    workspace: WorkspaceArgument,
    source: SourceOption = None,
    target: TargetOption = None,
    evaluation: EvaluationOption = None,
    upper_bound: UpperBoundOption = None,
    preset: PresetOption = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of co-optimisation. Default: the preset's.")] = None,
    settings: SettingsOption = None,
    baselines: Annotated[
        bool | None,
        typer.Option(
            "--baselines/--no-baselines",
            help="Also train what the result is compared with: source-only, FDA, the upper bound. Default: as the "
            "workspace was begun; at first yes.",
        ),
    ] = None,
    registered_model: Annotated[
        str | None,
        typer.Option(
            help="Model in MLflow's registry of which the segmenter becomes a version. Default: as the workspace was "
            "begun; at first vessel_segmentation."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random. Default: the manifest's, or 0.", min=0)
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Run all stages: prepare (if not done), train, mine, co-optimise, export, score, report.

    Finished stages are skipped and an interrupted one continues: run the same command again.
    """
    from . import pipeline, preparation
    from .settings import device_override, preset_and_overrides, resolve_settings

    overrides = _overrides(settings or [])
    if upper_bound is not None and baselines is False:
        raise InputError(
            f"--upper-bound {upper_bound}: with --no-baselines it would not be trained; leave one of them out"
        )
    if rounds is not None:
        overrides["rounds"] = rounds
    preset, overrides = preset_and_overrides(workspace, preset, overrides, device)
    resolve_settings(preset, {**overrides, **device_override(device)})  # refused before images are looked at
    if (workspace / "manifest.json").exists():
        preparation.check_prepared(workspace, source or (), target, evaluation, upper_bound, seed)
    elif source and target is not None:
        preparation.prepare(workspace, source, target, evaluation, upper_bound, seed=seed or 0)
    elif source or target or evaluation or upper_bound:
        raise InputError("adapt: expected both --source (once or more) and --target, each with a folder")
    bundle = pipeline.adapt(workspace, preset, overrides, baselines, device, registered_model)
    scores = workspace / "scores.md"
    if scores.exists():
        typer.echo(scores.read_text(encoding="utf-8"))
    typer.echo(f"segmenter: {bundle}\nreport: {workspace / 'report.html'}")


@app.command()
def segment(
    images: Annotated[Path, typer.Argument(metavar="IN", help="An image, or a folder of images.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the masks; made if it does not exist.")],
    bundle: Annotated[Path, typer.Option(help=BUNDLE_OR_ZIP)],
    probability: Annotated[bool, typer.Option("--probability", help="Also write probability maps.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write the vessels tinted over the image.")] = False,
    measurements: Annotated[
        bool,
        typer.Option("--measurements", help="Also write vessel area, skeleton density and calibre (measurements.csv)."),
    ] = False,
    scale: ScaleOption = None,
    threshold: ThresholdOption = None,
    suffix: Annotated[str | None, typer.Option(help="Format of the masks, such as .png. Default: the input's.")] = None,
    views: ViewsOption = 1,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = None,
) -> None:
    """Write the vessel masks of images, at their own size and with their geometry."""
    from . import segmenter

    written = segmenter.segment(
        images,
        output,
        bundle,
        probability=probability,
        overlay=overlay,
        measurements=measurements,
        scale=scale,
        threshold=threshold,
        suffix=suffix,
        views=views,
        runtime=runtime,
        device=device,
    )
    typer.echo(f"masks: {written}")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help=BUNDLE_OR_ZIP)],
    folder: Annotated[Path, typer.Argument(help="Folder of images with masks.")],
    output: Annotated[
        Path | None, typer.Option(help="JSON file of all scores. Default: eval/evaluation.json in the bundle.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Official part of a data set's root, or all. Default: its test part, where there is one."),
    ] = None,
    scale: ScaleOption = None,
    threshold: ThresholdOption = None,
    views: ViewsOption = 1,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = None,
) -> None:
    """Score a segmenter against masks: mean over images and 95 % interval."""
    from . import segmenter
    from .report.table import COLUMNS, format_score

    if bundle.is_file() and output is None:
        raise InputError(f"{bundle}: a zip is not changed; say where the scores go with --output")
    result = segmenter.evaluate(
        bundle,
        folder,
        output,
        split=split,
        scale=scale,
        threshold=threshold,
        views=views,
        runtime=runtime,
        device=device,
    )
    typer.echo(f"{len(result['per_image'])} images, mean [95 % interval]")
    for name, (heading, factor) in COLUMNS.items():
        typer.echo(f"{heading:<20} {format_score(result['summary'].get(name), factor)}")


@app.command()
def package(
    bundle: Annotated[Path, typer.Argument(help=BUNDLE)],
    output: Annotated[
        Path | None, typer.Option(help="The zip, or a folder for it. Default: beside the bundle.")
    ] = None,
) -> None:
    """Pack a finished bundle as the zip that MONAI's download and load accept."""
    from .deployment.archive import opened_bundle, package_bundle

    if bundle.is_file():
        raise InputError(f"{bundle}: expected a bundle's folder; this is a zip already")
    with opened_bundle(bundle) as folder:
        typer.echo(package_bundle(folder, output))


@app.command()
def convert(
    bundle: Annotated[Path, typer.Argument(help=BUNDLE)],
    to: Annotated[list[str], typer.Option(help="torchscript or onnx. Repeatable.")],
) -> None:
    """Write a bundle's segmenter as TorchScript or ONNX, compared with PyTorch before it is kept."""
    from .deployment.archive import opened_bundle
    from .deployment.runtimes import convert_bundle

    if bundle.is_file():
        raise InputError(f"{bundle}: expected a bundle's folder; a zip is not changed")
    with opened_bundle(bundle) as folder:
        for runtime in to:
            typer.echo(convert_bundle(folder, runtime))


@app.command("import-generator")
def import_generator(
    workspace: Annotated[Path, typer.Argument(help="Folder that 'prepare' made.")],
    checkpoint: Annotated[Path, typer.Argument(help="File with the state dict of a DiffusionModelUNet.")],
    domain: Annotated[str, typer.Option(help="What it draws: source or target images.")],
    key: Annotated[str | None, typer.Option(help="Which network, where the file holds several.")] = None,
    preset: PresetOption = None,
    settings: SettingsOption = None,
    device: DeviceOption = None,
) -> None:
    """Use a generator that was trained with monai-generative or MONAI, instead of training one.

    It must predict the noise (epsilon) of grey images in [-1, 1] with bright vessels, under the linear beta schedule.
    Afterwards look at samples.png, then run adapt with the same --preset and --set.
    """
    from . import pipeline

    overrides = _overrides(settings or [])
    folder = pipeline.import_generator(workspace, checkpoint, domain, preset, overrides, key=key, device=device)
    typer.echo(f"generator: {folder}")


@app.command()
def label(
    studies: Annotated[Path, typer.Option(help="Folder of the images to label.")],
    bundle: Annotated[Path, typer.Option(help="A vessel_segmentation bundle, or a workspace that holds one.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond the loopback address, whoever reaches it sees the images.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    environment: Annotated[
        Path | None, typer.Option(help="Virtual environment with MONAI Label. Default: what 'make label' made.")
    ] = None,
) -> None:
    """Start MONAI Label's server: correct masks in 3D Slicer or another client, fine-tune, ask what to label next."""
    from .label import serve

    serve(studies, bundle, host=host, port=port, environment=environment)


@app.command()
def report(workspace: Annotated[Path, typer.Argument(help="Folder of an adaptation.")]) -> None:
    """Write report.html from what the workspace holds so far."""
    from .report.html import write_report

    typer.echo(write_report(workspace))


def _overrides(settings: list[str]) -> dict[str, Any]:
    overrides = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (name and equals):
            raise InputError(f"--set: expected id=value, got {setting!r}")
        if name == "seed":
            raise InputError("--set seed: give --seed, which the images are prepared with, too")
        if name == "device":
            raise InputError("--set device: give --device cpu or cuda")
        overrides[name] = _value(text)
    return overrides


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of ``vessel-uda``."""
    app()


if __name__ == "__main__":
    main()
