"""The page ``speed.md`` from the CSV files; every sentence with a number is made from them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .dice import dice_table
from .inference import PHASE
from .measure import CONDITIONS, Row, read_rows
from .step import ALONE

HEAD = """# Speed and memory

Written by `python -m tests.benchmarks.speed` (extras `test`, `onnx`, `benchmark`) from the files `speed_*.csv`, one
for each device that it was run on; `--report` renders it again. Variants of one table were measured in turn (A, B, A,
B, …), in one process unless a heading says otherwise. A figure is the median, in brackets are the quartiles; ratios
are formed between neighbouring measurements, and their median and quartiles are shown. Whole files by their size: the
median of three; in sections of 2026-11-22 one measurement, which another job on the machine can spoil (the 6.3 s of a
1024 x 1024 file there are such a case: its network and windows took 1.2 s, and sixteen times the pixels 20 s).
Networks have untrained weights: speed does not depend on them. Load: running threads of the whole machine, averaged
over a minute; after a section, more than its own threads means that it was not alone. Sections of 2026-11-22 have the
generators that preset `small` had then: 32-64-96 channels on 2 x 2 pixels ([which it has
today](accuracy.md#which-generators)).
"""
GOALS_TEXT = """Every line of the sections below that holds a figure against a bound. Two goals are of whole jobs:
equal Dice in a third of the time ([accuracy.md](accuracy.md#time-against-the-plain-configuration)), and the demo
within five minutes ([demo.md](demo.md)). Evaluations are counts; that fewer cost no Dice is part of that goal, and
has been measured with preset `small`: against 50 DDIM steps and wide generators over four rounds (two seeds); with
the generators until 2026-11-23 also over one (three seeds), and against the published 300 and 1000 ancestral steps
over one round (two seeds; [at the end](#what-dice-the-samplers-give)).
"""
DICE = "What Dice the samplers give"
DICE_TEXT = """Preset `small` with the generators that it had until 2026-11-23 (on 2 x 2 pixels, `space-to-depth`),
development split, generators and one round, the same seed and processor in each difference; a few tenths on two seeds
are within chance. All factors and scores: [single_factors.md](single_factors.md#one-factor-at-a-time-one-round). A
cheaper sampler is taken only where it holds over all rounds, which 6 DDIM steps do not
([single_factors.md](single_factors.md#over-all-rounds)); 4 of DPM-Solver++ were not tried there.
"""
PLAIN, EVERY = "ours, channels_last, SDPA", "ours, channels_last, SDPA, fused AdamW"
OPTIONS = (
    ("channels_last", "ours", "ours, channels_last", "on"),
    ("SDPA", "ours, channels_last", PLAIN, "on: its memory does not grow with the square of the pixels"),
    ("fused AdamW", PLAIN, EVERY, "on"),
    ("TF32", "ours", "ours, TF32", "PyTorch's default, in convolutions"),
    ("bfloat16", EVERY, "ours, channels_last, bfloat16, SDPA, fused AdamW", "in trainings, the setting `amp`"),
    ("torch.compile", EVERY, f"{EVERY}, compiled", "not offered: see how long compiling takes"),
)
"""Option, variant without it, variant with it, what the package does."""
TO_REACH = ", to reach "
"""In every line that holds a figure against a bound."""
Columns = Mapping[str, tuple[str, float]]
"""Metric: heading of its column, and what its values are multiplied with."""


def write_report(folder: Path) -> None:
    """Render every CSV of the folder, by device and preset."""
    parts = []
    for path in sorted(folder.glob("speed_*.csv")):
        rows = read_rows(path)
        for preset in dict.fromkeys(row.preset for row in rows):
            own = [row for row in rows if row.preset == preset]
            kind = "GPU" if path.stem.startswith("speed_cuda") else "CPU"
            parts.append(f"## {kind} ({path.name}), preset `{preset}`\n")
            parts.append(conditions_table(own))
            for title, render in SECTIONS.items():
                section = [row for row in own if row.section == render.__name__ and row.case != CONDITIONS]
                if section:
                    parts += [f"### {title}\n", render(section)]
    parts = [HEAD, "## Goals\n", GOALS_TEXT, goals(parts), *parts]
    if (folder / "accuracy.csv").exists():
        parts += [f"## {DICE}\n", DICE_TEXT, dice_table(folder / "accuracy.csv") + "\n"]
    (folder / "speed.md").write_text("\n".join(part.rstrip() + "\n" for part in parts))


def goals(parts: Iterable[str]) -> str:
    """Lines of the rendered sections that say whether a goal is reached, under the device that they are of."""
    lines = [line for part in parts for line in part.splitlines()]
    kept = [line for line in lines if TO_REACH in line or line.startswith("## ")]
    return "\n".join(f"\n**{line[3:]}**\n" if line.startswith("## ") else line for line in kept).strip() + "\n"


def conditions_table(rows: Sequence[Row]) -> str:
    """What each section ran on; what is the same for all of them once."""
    sections = list(dict.fromkeys(row.section for row in rows))
    facts = {(row.section, row.metric): row for row in rows if row.case == CONDITIONS}
    names = list(dict.fromkeys(metric for _, metric in facts))
    same = [n for n in names if len({str(facts[s, n].value) for s in sections if (s, n) in facts}) == 1]
    lines = [f"- {name}: {_fact(facts[sections[0], name])}" for name in same if (sections[0], name) in facts]
    other = [name for name in names if name not in same]
    body = [[section, *(_fact(facts[section, name]) for name in other)] for section in sections]
    return "\n".join(lines) + "\n\n" + table(["section", *other], body)


def _fact(row: Row) -> str:
    value = f"{row.value:g}" if isinstance(row.value, float) else row.value
    return f"{value} {row.unit}".strip()


def table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def pivot(rows: Sequence[Row], columns: Columns, first: str = "variant") -> str:
    """A table with a line for each variant and a column for each metric that is there."""
    there = {metric: heading for metric, heading in columns.items() if any(row.metric == metric for row in rows)}
    cells = {(row.variant, row.metric): cell(row, there[row.metric][1]) for row in rows if row.metric in there}
    variants = list(dict.fromkeys(row.variant for row in rows if row.metric in there))
    body = [[variant, *(cells.get((variant, metric), "") for metric in there)] for variant in variants]
    return table([first, *(heading for heading, _ in there.values())], body)


def cell(row: Row, scale: float = 1.0) -> str:
    """Value with its quartiles, or that it was skipped."""
    if not isinstance(row.value, float):
        return str(row.value)
    if row.low is None or row.high is None or row.low == row.high:
        return short(row.value * scale)
    return f"{short(row.value * scale)} [{short(row.low * scale)}, {short(row.high * scale)}]"


def short(value: float) -> str:
    """Three significant digits, without an exponent for what people count."""
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1 else f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def by_case(rows: Sequence[Row], render: Callable[[Sequence[Row]], str]) -> str:
    """One table for each case, under its name."""
    cases = dict.fromkeys(row.case for row in rows)
    return "\n".join(f"**{case}**\n\n{render([row for row in rows if row.case == case])}" for case in cases)


def find(rows: Sequence[Row], metric: str, case: str, variant: str | None = None) -> Row | None:
    """The first row with a number, of any variant or of one."""
    found = (r for r in rows if (r.metric, r.case) == (metric, case) and variant in (None, r.variant))
    return next((row for row in found if isinstance(row.value, float)), None)


def reached(what: str, row: Row | None, bound: float, below: bool = False, unit: str = "") -> str:
    """A line that holds a measured number against a bound of the project."""
    if row is None or not isinstance(row.value, float):
        return f"- {what}: not measured.\n"
    good = row.value <= bound if below else row.value >= bound
    sign, verdict = "≤" if below else "≥", "reached" if good else "**not reached**"
    worse = row.high if below else row.low
    if good and worse is not None and (worse > bound if below else worse < bound):
        verdict = "reached by the median, not by the worse quartile"
    return f"- {what}: {cell(row)}{unit}{TO_REACH}{sign} {bound:g}{unit}: {verdict}.\n"


def step(rows: Sequence[Row]) -> str:
    """Both sizes, best variants against diffusers, and what was skipped."""
    columns = {
        "parameters": ("parameters, M", 1.0),
        "multiply-adds of a noise prediction": ("G multiply-adds for a patch", 1.0),
        f"{ALONE}, seconds": ("prediction alone in a process, ms", 1000.0),
        f"{ALONE}, speed-up": ("alone: times diffusers", 1.0),
        "noise prediction, seconds": ("prediction, ms", 1000.0),
        "noise prediction, speed-up": ("prediction: times diffusers", 1.0),
        "training step, seconds": ("training step, ms", 1000.0),
        "training step, speed-up": ("step: times diffusers", 1.0),
    }
    shipped = {row.metric: row.variant for row in rows if row.value == "as shipped"}
    rows = [row for row in rows if row.value != "as shipped"]
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        name = case.split(":")[0]
        own = shipped["sampling"]
        what = f"{name}, noise prediction as shipped ({own}), times as fast as diffusers"
        each = find(rows, f"{ALONE}, speed-up", case, own)
        if each:
            lines.append(reached(f"{what}, each alone in a process, as in use ({each.note})", each, 1.15))
        together = find(rows, "noise prediction, speed-up", case, own)
        lines.append(reached(f"{what}, all variants in one process", together, 1.15))
        again = find(rows, "noise prediction, speed-up", case, f"{own}, fused AdamW")  # which a prediction does not use
        if again:
            lines.append(reached(f"{what}, the same once more in that process", again, 1.15))
        lines += bfloat16_lines(rows, case)
        own, ratio = shipped["training"], find(rows, "training step, speed-up", case, shipped["training"])
        if ratio:
            lines.append(f"- {name}, training step as shipped ({own}): {cell(ratio)} times as fast as diffusers.\n")
        difference = find(rows, "largest difference from diffusers with its weights", case)
        if difference:
            lines.append(f"- {name}: ours with diffusers' weights predicts the same to {cell(difference)}.\n")
    lines += [f"- {row.variant}, {row.metric}: {cell(row)} s.\n" for row in rows if row.metric.endswith("compiling")]
    skipped = [row for row in rows if row.value == "skipped"]
    lines += [f"- Skipped: {r.variant}, {r.metric} ({r.case.split(':')[0]}): {r.note}.\n" for r in skipped]
    text = "Multiply-adds are those of convolutions and matrix products, without the fused attention of diffusers.\n"
    gains = "What each option gains over the same without it (ratio of medians):\n\n" + options_table(rows)
    return "\n".join(["".join(lines), gains, text, by_case(rows, lambda own: pivot(own, columns))])


def options_table(rows: Sequence[Row]) -> str:
    """How many times as fast each option makes prediction and training step, and what the package does with it."""
    cases = list(dict.fromkeys(row.case for row in rows))
    kinds = ("noise prediction", "training step")
    body = []
    for option, without, with_it, use in OPTIONS:
        cells = []
        for case in cases:
            for kind in kinds:
                before, after = (seconds_of_variant(rows, case, kind, name) for name in (without, with_it))
                cells.append(short(before / after) if before and after else "")
        if any(cells):
            body.append([option, *cells, use])
    heads = [f"{case.split(':')[0]}: {kind}" for case in cases for kind in kinds]
    return table(["option", *heads, "in the package"], body)


def seconds_of_variant(rows: Sequence[Row], case: str, kind: str, name: str) -> float | None:
    """Median seconds; a prediction needs no optimiser and is measured without one."""
    names = [name, name.replace(", fused AdamW", "")] if kind == "noise prediction" else [name]
    found = (find(rows, f"{kind}, seconds", case, known) for known in names)
    return next((float(row.value) for row in found if row), None)


def bfloat16_lines(rows: Sequence[Row], case: str) -> list[str]:
    """Where it was measured for both: ours against diffusers' at that precision and as it comes; a GPU's has bounds."""
    metric = "noise prediction, speed-up"
    own, theirs = (
        find([row for row in rows if row.variant.startswith(name) and "bfloat16" in row.variant], metric, case)
        for name in ("ours", "diffusers")
    )
    if own is None or theirs is None:
        return []
    ratio = replace(own, value=float(own.value) / float(theirs.value), low=None, high=None)
    where = f"{case.split(':')[0]}, noise prediction, {own.variant}, times as fast as"
    gpu = any("TF32" in row.variant for row in rows)
    return [
        reached(f"{where} {other}", row, bound) if gpu else f"- {where} {other}: {cell(row)}.\n"
        for other, row, bound in ((theirs.variant, ratio, 1.0), ("diffusers in float32", own, 2.0))
    ]


def sampling(rows: Sequence[Row]) -> str:
    """Pairs, then adaptations."""
    columns = {
        "evaluations": ("network evaluations", 1.0),
        "pair, seconds": ("ms for a pair", 1000.0),
        "evaluation, seconds": ("ms for an evaluation", 1000.0),
        "published at this scale": ("published at this scale", 1.0),
        "times fewer than published": ("times fewer than published", 1.0),
        "hours": ("hours with this network and patch", 1.0),
    }
    lines = []
    for row in rows:
        if row.metric == "times fewer than published" and row.variant.startswith(("as preset", "preset")):
            lines.append(reached(f"{row.case}, {row.variant}: times fewer evaluations", row, 19))
    text = (
        "Extrapolated from the median seconds of an evaluation here: the published procedure's pairs, and all hours.\n"
        f"What Dice a round reaches with them: [at the end](#{DICE.lower().replace(' ', '-')}).\n"
    )
    return "".join(lines) + "\n" + text + "\n" + by_case(rows, lambda own: pivot(own, columns))


def data(rows: Sequence[Row]) -> str:
    """Loader and step of each training, then the transforms and the preparation."""
    prepared = [row for row in rows if row.metric == "images of a stage"]
    rows = [row for row in rows if row not in prepared]
    trainings = list(dict.fromkeys(row.case for row in rows))
    wanted = (
        ("loader", "throughput", "patches/s"),
        ("loaded batch", "iteration", "iteration with loading, ms"),
        ("resident batch", "iteration", "with a resident batch, ms"),
        ("loaded batch", "times a resident batch", "ratio"),
        ("network", "layout in training", "layout of the weights"),
    )
    cells = {(row.case, row.variant, row.metric): cell(row) for row in rows}
    body = [[t, *(cells.get((t, variant, metric), "") for variant, metric, _ in wanted)] for t in trainings]
    first = table(["training", *(heading for *_, heading in wanted)], body)
    parts = list(dict.fromkeys(row.variant for row in rows if row.metric == "time of a patch"))
    body = [[part, *(cells.get((t, part, "time of a patch"), "") for t in trainings)] for part in parts]
    pages = [first, "Time of one patch, in microseconds:\n", table(["part", *trainings], body)]
    if prepared:
        text = "Images of a stage, whole, at the working resolution: the first stage prepares them, others read them.\n"
        cases = list(dict.fromkeys(row.case for row in prepared))
        seconds = {(row.case, row.variant): f"{cell(row)} s" for row in prepared}
        variants = list(dict.fromkeys(row.variant for row in prepared))
        pages += [text, table(["", *cases], [[v, *(seconds[c, v] for c in cases)] for v in variants])]
    return "\n".join(pages)


def inference(rows: Sequence[Row]) -> str:
    """Runtimes in memory, files, then the sizes with their memory."""
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        row = find(rows, "single file of 304 x 304, read to written, seconds", case, "torch")
        lines.append(reached(f"{case}: one file of 304 x 304, all of `segment`", row, 0.5, below=True, unit=" s"))
        found = [row for row in rows if (row.case, row.metric) == (case, "peak in bytes for a pixel")]
        if found:
            largest = found[-1]
            what = f"{case}: memory of a file of {largest.variant}, bytes a pixel more than the smallest"
            lines.append(reached(what, largest, 14, below=True))
            lines.append(
                "- Of these 14 the float32 image and its logits, the network's output, are 12, the file's pixels and "
                "its mask 2. While windows are added up the image (4), the sum and the weights of the windows (8) and "
                "the list of windows are held (phases below), and the field of view (1) where it is not the whole "
                "image.\n"
            )
    skipped = [row for row in rows if row.value == "skipped"]
    lines += [f"- Skipped: {row.variant} ({row.case}): {row.note}.\n" for row in skipped]
    metrics = dict.fromkeys(row.metric for row in rows)
    timed = {metric: (metric, 1000.0 if metric.endswith("seconds") else 1.0) for metric in metrics}
    in_memory = {m: (h.replace("seconds", "ms"), s) for m, (h, s) in timed.items() if "window" in m or "memory, s" in m}
    files = {m: (h.replace("seconds", "ms"), s) for m, (h, s) in timed.items() if "file of" in m}
    sizes = {
        "read to written, seconds": ("read to written, s", 1.0),
        "throughput": ("megapixels/s", 1.0),
        "peak memory": ("peak memory, MiB", 1.0),
        "peak beyond the smallest image": ("beyond the smallest image, MiB", 1.0),
        "image and logits": ("image and logits alone, MiB", 1.0),
        "peak in bytes for a pixel": ("bytes for a pixel beyond the smallest", 1.0),
    }

    def render(own: Sequence[Row]) -> str:
        tables = [pivot(own, in_memory, "in memory"), pivot(own, files, "files"), pivot(own, sizes, "file of")]
        if any(row.metric == PHASE for row in own):
            tables.append(pivot(own, {PHASE: ("peak, bytes for a pixel", 1.0)}, "phase"))
        return "\n".join(tables)

    text = (
        "Phases: the peak memory of each part of the way of the largest file, less what the process held before it,\n"
        "in bytes for a pixel.\n"
    )
    return "".join(lines) + "\n" + text + "\n" + by_case(rows, render)


def growth(rows: Sequence[Row]) -> str:
    """One table for each kind of growth."""
    columns = {
        "all, seconds": ("s", 1.0),
        "seconds for a unit of work, against factor 1": ("time for a unit of work, against 1", 1.0),
        "iteration, seconds": ("iteration, ms", 1000.0),
        "iteration, speed-up": ("speed-up", 1.0),
    }
    return by_case(rows, lambda own: pivot(own, columns, "times"))


def limit(rows: Sequence[Row]) -> str:
    """The machine, what is done and what it could be, then the profiles."""
    machine = [row for row in rows if row.case == "the machine"]
    cases = [case for case in dict.fromkeys(row.case for row in rows) if case != "the machine"]
    lines = [f"- {row.variant}, {row.metric}: {cell(row)} {row.unit}\n" for row in machine]
    metrics = list(dict.fromkeys(row.metric for row in rows if row.case in cases and not row.variant))
    cells = {(row.case, row.metric): f"{cell(row)} {row.unit}" for row in rows if not row.variant}
    numbers = [metric for metric in metrics if metric != "verdict"]
    body = [[metric, *(cells.get((case, metric), "") for case in cases)] for metric in numbers]
    verdicts = [f"- {case}: {cells[case, 'verdict'].strip()}\n" for case in cases if (case, "verdict") in cells]
    text = (
        "\n'Least, operator by operator' adds up, for every operator, the longer of its arithmetic at the peak and\n"
        "its bytes (inputs read once, outputs written once) at the bandwidth of cache or memory, by its size.\n\n"
    )
    profiles = []
    for case in cases:
        own = [r for r in rows if r.case == case and r.metric == "share of the profile"]
        top = [[f"`{r.variant}`", f"{100 * float(r.value):.1f} %", r.note] for r in own]
        profiles.append(f"**{case}**\n\n" + table(["operator", "own time", "each run"], top))
    return "".join(lines) + "\n" + table(["", *cases], body) + text + "".join(verdicts) + "\n" + "\n".join(profiles)


SECTIONS = {
    "Noise prediction and training step of the generator": step,
    "Sampling": sampling,
    "Data path": data,
    "Inference": inference,
    "How cost grows": growth,
    "The limit": limit,
}
"""Title and renderer of each section; the renderer has the section's name."""
