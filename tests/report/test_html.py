import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.report.html import manifest_facts, write_report

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects tags and text, and fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "work & <play>"
    preview = folder / "stages" / "latent_mining" / "preview.png"
    preview.parent.mkdir(parents=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(preview)
    (folder / "stages" / "latent_mining" / "losses.csv").write_text("iteration,loss\n10,0.5\n20,0.25\n")
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "seed": 7,
                "lists": {"source": [{"image": "a.png"}] * 3, "target": [{"image": "b.png"}]},
                "preprocessing": {"source": {"polarity": "dark", "polarity_by": "masks"}, "matched": True},
            }
        )
    )
    rows = [
        {"name": "source-negated", "scores": {"dice": {"mean": 0.53, "low": 0.5, "high": 0.56}}},
        {
            "name": "final <script>alert(1)</script>",
            "scores": {"dice": {"mean": 0.7123, "low": 0.6, "high": 0.8}},
            "exported": True,
            "note": "<b>chosen</b> & kept",
        },
    ]
    (folder / "scores.json").write_text(json.dumps({"rows": rows, "conditions": {"threshold": 0.5}}))
    rounds = [
        {"round": 0, "measures": {"consistency": 0.8, "vessel_fraction": None}, "chosen": False},
        {"round": 1, "measures": {"consistency": 0.91234, "faithfulness": 0.5}, "chosen": True},
    ]
    (folder / "stages" / "co_optimization").mkdir()
    (folder / "stages" / "co_optimization" / "rounds.json").write_text(json.dumps({"rounds": rounds}))
    return folder


def test_a_full_workspace_is_told_whole(workspace):
    path = write_report(workspace)
    assert path == workspace / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for expected in (
        "Not a medical device",
        "work & <play>",
        "3 items",
        "1 item",
        "dark",
        "71.23 [60.00, 80.00]",
        "<b>chosen</b> & kept",
        "0.9123",
        "vessel fraction",
        "threshold",
        "latent_mining/preview.png",
        "1 (chosen)",
    ):
        assert expected in page.text, expected
    assert "Not run yet" not in page.text
    assert sum(row.get("class") == "chosen" for row in page.all("tr")) == 2


def test_the_page_is_self_contained_and_described(workspace):
    page = Page(write_report(workspace).read_text(encoding="utf-8"))
    images = page.all("img")
    assert len(images) == 3 and all(image["alt"] for image in images)
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert not page.all("link") and not page.all("script")
    assert page.all("html")[0]["lang"] == "en"
    preview = (workspace / "stages" / "latent_mining" / "preview.png").read_bytes()
    assert base64.b64decode(images[-1]["src"].split(",")[1]) == preview


def test_text_from_the_workspace_is_escaped(workspace):
    html = write_report(workspace).read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;" in html and "<b>chosen" not in html
    assert not re.search(r"(src|href)=[\"']?https?:", html)


def test_missing_parts_are_said_to_be_missing(tmp_path):
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("Not run yet") == 5 and "Not a medical device" in page.text
    assert not page.all("img")


def test_rounds_may_be_a_plain_list_and_csv_of_other_things_is_left_alone(tmp_path):
    folder = tmp_path / "stages" / "co_optimization"
    folder.mkdir(parents=True)
    (folder / "rounds.json").write_text(json.dumps([{"round": 3, "measures": {"x": 1.5}, "chosen": True}]))
    (folder / "measurements.csv").write_text("vessel,length\n1,2\n")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "3 (chosen)" in page.text and "1.5" in page.text and page.text.count("Not run yet") == 4


def test_half_written_files_of_a_killed_run_are_left_alone(workspace):
    before = write_report(workspace).read_bytes()
    left = workspace / "stages" / "latent_mining" / ".writing-x"
    left.mkdir()
    (left / "preview.png").write_bytes(b"half")
    (left / "losses.csv").write_text("iteration,loss\n10,0.")
    assert write_report(workspace).read_bytes() == before


def test_same_workspace_same_bytes(workspace):
    assert write_report(workspace).read_bytes() == write_report(workspace).read_bytes()


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(InputError, match="scores.json"):
        write_report(tmp_path)


def test_manifest_facts_join_names_and_leave_out_what_is_long():
    manifest = {
        "a": {"polarity_by": None, "sha256": "0" * 64, "scale": 0.123456},
        "odd": [1, 2],
        "many": list(range(40)),
        "evaluation": [],
    }
    assert list(manifest_facts(manifest)) == [
        ("a: polarity by", "–"),
        ("a: scale", "0.1235"),
        ("odd", "1, 2"),
        ("many", "40 values"),
        ("evaluation", "none"),
    ]
