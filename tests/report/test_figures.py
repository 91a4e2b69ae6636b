import pytest
from PIL import Image

from monai_vessel_uda.errors import InputError
from monai_vessel_uda.preview import MAX_BYTES
from monai_vessel_uda.report import figures
from monai_vessel_uda.report.figures import curves, score_plot


def test_plots_are_small_repeatable_and_show_their_numbers(tmp_path):
    def rows(mean):
        return [
            {"name": "$a$", "scores": {"dice": {"mean": mean, "low": 0.0, "high": 0.9}}},
            {"name": "undefined", "scores": {"dice": {"mean": None}}},
        ]

    first, again, other = (
        score_plot(rows(mean), tmp_path / f"{n}.png").read_bytes() for n, mean in enumerate((0.5, 0.5, 0.6))
    )
    assert first == again != other
    drawn = curves({f"training {n}": [(1, 2.0), (2, 1.0)] for n in range(4)}, tmp_path / "c.png")
    assert Image.open(drawn).size == (870, 420)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < MAX_BYTES


def test_curves_have_no_ticks_between_rounds(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or path)
    curves({"measure": [(0, 0.1), (1, 0.3), (2, 0.2)]}, tmp_path / "c.png", xlabel="round")
    ((panel,),) = [figure.axes for figure in drawn]
    low, high = panel.get_xlim()
    assert [tick for tick in panel.get_xticks() if low <= tick <= high] == [0, 1, 2]


def test_plots_refuse_what_they_cannot_draw(tmp_path):
    with pytest.raises(InputError, match="accuracy_of_luck"):
        score_plot([], tmp_path / "p.png", metric="accuracy_of_luck")
    with pytest.raises(InputError, match="curves"):
        curves({}, tmp_path / "p.png")
