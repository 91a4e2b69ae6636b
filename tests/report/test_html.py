import json
import re

import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.report.html import write_report

from .page import Page

STAGES = ["Example", "Scores", "Rounds", "Pictures", "Training", "How"]
"""First words of the sections in their order."""


def report(workspace):
    return Page(write_report(workspace))


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def paint(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(path)
    return path.read_bytes()


def look(grey, polarity):
    return {"grey": grey, "grey_by": "by mask", "polarity": polarity, "polarity_by": "given"}


MANIFEST = {
    "seed": 7,
    "source": [{"image": "a.png", "sha256": "0" * 64}] * 3,
    "target": [{"image": "b.png"}],
    "evaluation": [],
    "preprocessing": {
        "source": {
            **look("green", "dark"),
            "datasets": {
                "FIVES": {"scale": 0.25, "scale_by": "by masks"},
                "DRIVE": {"scale": 0.5, "scale_by": "given"},
            },
        },
        "target": {**look("luma", "bright"), "scale": 2.0},
        "flatten": {"enabled": True, "sigma": 12.56},
        "match": {"enabled": False, "quantiles": list(range(99))},
    },
}
ROUNDS = {
    "exported_round": 1,
    "started_from": "mined",
    "rounds": [
        {
            "round": 0,
            "candidates": {
                "aligned": {"threshold": 0.65, "consistency": 0.7},
                "mined": {"threshold": 0.45, "consistency": 0.8},
            },
            "scores": {"aligned": 0.25, "mined": 0.75},
            "measures": {"threshold": 0.45, "consistency": 0.8, "vessel_fraction": None, "my_own": 3},
            "score": 0.125,
        },
        {
            "round": 1,
            "measures": {"faithfulness": 0.5, "threshold": 0.35, "consistency": 0.91234},
            "score": 0.875,
            "worse_than_before": False,
        },
    ],
}
SCORES = {
    "rows": [
        {
            "name": "source-negated",
            "scores": {"dice": {"mean": 0.53, "low": 0.5, "high": 0.56, "n": 8}},
            "exported_minus": {"dice": {"mean": 0.1823, "low": 0.1, "high": 0.25, "n": 8}},
        },
        {
            "name": "final <script>alert(1)</script>",
            "scores": {"dice": {"mean": 0.7123, "low": 0.6, "high": 0.8, "n": 8}, "hd95_px": {"mean": 3.5}},
            "exported": True,
        },
        {
            "name": "upper bound (target masks)",
            "scores": {"dice": {"mean": 0.9, "n": 8}},
            "exported_minus": {"dice": {"mean": -0.1877, "low": -0.3, "high": -0.1, "n": 8}},
        },
    ],
    "conditions": {"exported_round": 1, "settings": {"net_def#channels": [4, 8], "t0": 6}},
}


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "work & <play>"
    stages = folder / "stages"
    save(folder / "manifest.json", MANIFEST)
    save(folder / "settings.json", {"preset": "demo", "settings": SCORES["conditions"]["settings"]})
    save(folder / "scores.json", SCORES)
    save(stages / "co_optimization" / "rounds.json", ROUNDS)
    save(stages / "co_optimization" / "weights.json", {"threshold": 0.35})
    (stages / "ddpm_source").mkdir()
    (stages / "ddpm_source" / "losses.csv").write_text("iteration,loss\n10,0.5\n20,0.25\n")
    return folder


@pytest.fixture
def pictures(workspace):
    """Files of the workspace's pictures in the order in which they belong on the page."""
    names = [
        "co_optimization/preview_example.png",
        "ddpm_source/samples.png",
        "latent_mining/preview.png",
        "co_optimization/round_01/preview.png",
        "co_optimization/round_01/preview_pseudo_masks.png",
    ]
    return [paint(workspace / "stages" / name, 20 * level) for level, name in enumerate(names)]


def test_the_outcome_comes_first_and_what_few_readers_need_last(workspace):
    page = report(workspace)
    title, notice = page.texts_in("header", "h1"), page.texts_in("header", "p", "strong")
    assert title == ["Vessel segmentation adapted to images without masks: work & <play>"]
    assert notice == ["Not a medical device."]
    assert [text.split()[0] for text in page.texts_in("h2")] == STAGES
    assert page.source.index("<h1") < page.source.index("Not a medical device") < page.source.index("<h2")
    assert "Not run yet: there is no example picture." in page.text and page.text.count("Not run yet") == 2


def test_the_summary_says_what_was_exported_and_how_it_compares(workspace):
    assert report(workspace).texts_in("header", "p")[-1] == (
        "A vessel segmenter for the target images was learnt from 3 source images with vessel masks and 1 target image "
        "without any. Exported is round 1 of 1, the best one judged by measures that need no target mask; it marks a "
        "vessel where its probability is at least 0.35. Its mean Dice over 8 evaluation images, with the 95 % "
        "interval, is 71.23 % [60.00, 80.00], against 53.00 % [50.00, 56.00] for the baseline “source-negated” "
        "(trained on source images with the target's polarity) and 90.00 % for the upper bound (trained with target "
        "masks). Image by image that is +18.23 points [10.00, 25.00] against the baseline “source-negated” and -18.77 "
        "points [-30.00, -10.00] against the upper bound."
    )


def test_the_summary_without_scores(workspace):
    (workspace / "scores.json").unlink()
    assert report(workspace).texts_in("header", "p")[-1].endswith("at least 0.35. It was not scored against masks.")


def test_the_summary_where_no_round_was_better_than_the_start(workspace):
    edit(workspace / "stages/co_optimization/rounds.json", lambda rounds: rounds.update(exported_round=0))
    page = report(workspace)
    assert "the segmenter that the rounds started from, “mined”: no round was better" in page.text
    assert re.search(r'class="chosen">start <small>\(exported\)</small>', page.section("Rounds"))


def test_the_threshold_is_that_of_the_bundle_where_it_has_a_number(workspace):
    config = workspace / "vessel_segmentation" / "configs" / "inference.json"
    save(config, {"threshold": "$@description.get('threshold', 0.5)"})
    assert "at least 0.35." in report(workspace).text
    save(config, {"threshold": 0.6})
    assert "at least 0.6." in report(workspace).text


def test_doubts_stand_above_the_summary(workspace):
    assert report(workspace).texts_in("header", "strong") == ["Not a medical device."]

    def fail(rounds):
        rounds["rounds"][1]["measures"] |= {"boundary_contrast": -0.25, "faithfulness": 0.09}

    edit(workspace / "stages/co_optimization/rounds.json", fail)
    page = report(workspace)
    _, outlines, images = page.texts_in("header", "strong")
    assert "(boundary contrast -0.25; " in outlines and "(faithfulness 0.09)" in images
    assert page.source.index("boundary contrast -0.25") < page.source.index("A vessel segmenter for")


def test_pictures_stand_in_the_order_of_the_work_with_the_example_on_top(workspace, pictures):
    page = report(workspace)
    found = page.pictures()
    example, score_plot, round_curves, *stages, losses = found
    assert [example, *stages] == pictures
    assert len({score_plot, round_curves, losses, *pictures}) == 8
    for word, count in zip(STAGES, (1, 1, 1, 4, 1, 0), strict=True):
        assert page.section(word).count("<img") == count, word
    assert page.texts_in("section", "figcaption")[3:7] == [
        "Source generator: real patch, its mask, a patch denoised under it (from noise, or the noised real patch).",
        "Mined pairs: source patch, its mask, the patch redrawn in the target's look.",
        "Round 1: source mask, the target-like patch generated for it.",
        "Round 1: target image, the vessels marked in it before the round.",
    ]


def test_an_unknown_picture_is_named_by_its_file(workspace):
    paint(workspace / "stages" / "ddpm_source" / "preview_<new>.png", 5)
    assert "ddpm_source/preview_<new>.png" in report(workspace).texts_in("figcaption")


def test_scores_stand_above_their_intervals(workspace):
    page = report(workspace)
    scores = page.section("Scores")
    assert "<td>71.23 <small>[60.00, 80.00]</small></td>" in scores
    assert "<td>3.50</td>" in scores  # no interval, no second line
    assert page.texts_in("th").count("exported − this, Dice points") == 1
    (row,) = re.findall(r'<tr class="chosen">.*', scores)
    assert "(exported)" in row and "71.23" in row


def test_rounds_and_candidates_show_measures_and_thresholds(workspace):
    page = report(workspace)
    rounds, candidates = page.section("Rounds").split("The rounds started from")

    def cells(html, name):
        (line,) = re.findall(rf'<tr><th scope="row">{name}.*', html)
        return re.findall(r"<td[^>]*>([^<]*)</td>", line)

    assert cells(rounds, "label-free score") == ["0.125", "0.875"]
    assert cells(rounds, "threshold") == ["0.45", "0.35"]
    assert cells(rounds, "consistency") == ["0.8", "0.9123"]
    assert cells(rounds, "faithfulness") == ["–", "0.5"]
    assert cells(rounds, "vessel fraction") == ["–", "–"]
    assert cells(rounds, "my own") == ["3", "–"]
    assert " segmenter “mined”: of 2 candidates it has the best label-free score, 0.75." in candidates
    assert "aligned (trained on source images made to look like the target, no diffusion)" in candidates
    assert re.findall(r'<th scope="col"[^>]*>(\w+)', candidates) == ["Measure", "mined", "aligned"]
    assert cells(candidates, "threshold") == ["0.45", "0.65"]
    assert cells(candidates, "label-free score") == ["0.75", "0.25"]


def test_what_one_round_has_makes_no_curve(workspace):
    with_curves = len(report(workspace).pictures())

    def forget_the_first(rounds):
        rounds["rounds"][0]["measures"] = {"vessel_fraction": 0.1}
        rounds["rounds"][1]["measures"]["vessel_fraction"] = 0.2  # has no better side

    edit(workspace / "stages/co_optimization/rounds.json", forget_the_first)
    assert len(report(workspace).pictures()) == with_curves - 1


def test_a_lone_candidate_and_a_round_that_made_it_worse_are_said(workspace):
    assert "measures worse" not in report(workspace).text

    def change(rounds):
        rounds["rounds"][0] |= {"scores": {"mined": 1.0}, "candidates": {"mined": {"consistency": 0.8}}}
        rounds["rounds"][1]["worse_than_before"] = True

    edit(workspace / "stages/co_optimization/rounds.json", change)
    page = report(workspace)
    assert "Round 1 made the label-free measures worse than they were before it." in page.text
    assert "“mined”; there was no other candidate." in page.text


def test_provenance_is_told_in_short_and_folded_away_in_full(workspace):
    page = report(workspace)
    assert page.texts_in("li") == [
        "Source: dark vessels (given), grey values: green (by mask).",
        "Target: bright vessels (given), grey values: luma (by mask).",
        "Scale, in working pixels for one native pixel: DRIVE 0.5 (given), FIVES 0.25 (by masks); target 2.",
        "Source background: flattened (sigma 12.56 px). Source intensities: kept.",
    ]
    assert page.texts_in("summary") == [
        "Manifest and preprocessing (20 lines)",
        "Settings in effect, preset “demo” (2 lines)",
        "Conditions of the evaluation (1 line)",
    ]
    assert all("open" not in attrs for attrs in page.all("details"))
    folded = page.texts_in("details", "td") + page.texts_in("details", "th")
    for expected in (
        "3 items",
        "net_def#channels",
        "4, 8",
        "exported_round",
        "preprocessing: source: datasets: FIVES: scale",
    ):
        assert folded.count(expected) == 1, expected
    outside = [text for around, text in page.texts if "details" not in around]
    assert not {"3 items", "net_def#channels"} & set(outside)
    assert "0" * 64 not in page.source and "quantiles" not in page.source


def test_settings_of_an_evaluation_that_differ_are_shown_too(workspace):
    edit(workspace / "scores.json", lambda scores: scores["conditions"]["settings"].update(t0=9))
    assert "settings: t0" in report(workspace).texts_in("details", "th")


def test_the_page_is_self_contained_and_described(workspace, pictures):
    page = report(workspace)
    images = page.all("img")
    assert len(images) == 8 and all(image["alt"] for image in images)
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert not {"link", "script", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert not re.search(r"https?:|@import|url\(", page.source)
    assert page.all("html") == [{"lang": "en"}]
    assert {attrs.get("scope") for attrs in page.all("th")} == {"row", "col"}
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs} <= set(ids)


def test_every_colour_has_a_light_and_a_dark_value(workspace):
    (style,) = report(workspace).texts_in("style")
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{.*?\}", style))
    assert light.keys() == dark.keys() and all(light[name] != dark[name] for name in light)
    rules = re.sub(r":root \{.*?\}", "", style)
    assert set(re.findall(r"var\(--(\w+)\)", rules)) <= light.keys()
    assert re.findall(r"#\w+", rules) == ["#fff"]  # behind pictures, which are drawn on white


def test_text_from_the_workspace_is_escaped(workspace):
    def poison(rounds):
        rounds["rounds"][0]["candidates"]["<i>odd</i>"] = {"<u>measure</u>": 1}

    edit(workspace / "stages/co_optimization/rounds.json", poison)
    edit(workspace / "settings.json", lambda settings: settings["settings"].update({"<s>key</s>": "<q>value</q>"}))
    page = report(workspace)
    assert not {"script", "b", "play", "i", "u", "s", "q"} & {tag for tag, _ in page.tags}
    for expected in ("<script>alert(1)</script>", "<i>odd</i>", "<u>measure</u>", "<s>key</s>"):
        assert expected in page.text, expected


def test_missing_parts_are_said_to_be_missing(tmp_path):
    (tmp_path / "stages").mkdir()
    page = report(tmp_path)
    assert [page.section(word).count("Not run yet") for word in STAGES] == [1] * 6
    assert page.texts_in("header", "p")[-1] == "No segmenter has been exported yet."
    assert not page.all("img") and not page.all("details") and not page.all("table")


def test_a_workspace_that_is_only_prepared(tmp_path):
    save(tmp_path / "manifest.json", MANIFEST)
    page = report(tmp_path)
    assert page.texts_in("header", "p")[-1] == (
        "A vessel segmenter for the target images is being learnt from 3 source images with vessel masks and 1 target "
        "image without any. No segmenter has been exported yet."
    )
    assert [page.section(word).count("Not run yet") for word in STAGES] == [1] * 5 + [0]


def test_csv_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "measurements.csv").write_text("vessel,length\n1,2\n")
    (tmp_path / "stages" / "losses.csv").write_text("iteration,loss\n")
    assert "Not run yet: nothing was trained." in report(tmp_path).text


def test_half_written_files_of_a_killed_run_are_left_alone(workspace, pictures):
    before = write_report(workspace).read_bytes()
    left = workspace / "stages" / "latent_mining" / ".writing-x"
    left.mkdir()
    (left / "preview.png").write_bytes(b"half")
    (left / "losses.csv").write_text("iteration,loss\n10,0.")
    assert write_report(workspace).read_bytes() == before


def test_same_workspace_same_bytes(workspace, pictures):
    assert write_report(workspace).read_bytes() == write_report(workspace).read_bytes()


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(InputError, match="scores.json"):
        write_report(tmp_path)


def test_a_folder_that_is_no_workspace_gets_no_report(tmp_path):
    (tmp_path / "seed_0").mkdir()
    (tmp_path / "seed_0" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="no workspace: .*; did you mean seed_0 in it"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
