import csv
import math

import numpy as np
import pytest
from matplotlib.image import imread

from mrl_keras.evaluation import AccuracyTable, PanelStyle, line_panels

LINES = {
    f"system {i}": [(2, 60.0 + i, 0.5), (3, 61.0 + i), (4, 70.0 - i, math.nan)] for i in range(9)
}
COLUMNS = {"MRL": {2: 0.5, 3: 0.625, 4: 0.75}, "FF": {2: 0.4, 4: 0.8}}


def test_text_marks_interpolated_dims_and_gaps():
    lines = AccuracyTable(COLUMNS, [2, 4]).to_text().splitlines()
    assert [line.split() for line in lines] == [
        ["dims", "MRL", "FF"],
        ["2", "50.00", "40.00"],
        ["~3", "62.50", "-"],
        ["4", "75.00", "80.00"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_csv(tmp_path):
    AccuracyTable(COLUMNS, [2, 4]).write_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"dims": "3", "trained": "0", "MRL": "0.625", "FF": ""}
    assert [row["dims"] for row in rows] == ["2", "3", "4"]


def test_plot_draws_every_panel(tmp_path):
    table = AccuracyTable(COLUMNS, [2, 4])
    table.plot(tmp_path / "one.png", {"linear": ["MRL"]})
    table.plot(tmp_path / "two.png", {"linear": ["MRL"], "both": ["MRL", "FF"]}, title="digits")
    one, two = (imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    middle = two.shape[1] // 2
    assert middle < one.shape[1] < two.shape[1]
    for picture in (one, two[:, :middle], two[:, middle:]):
        assert np.unique(picture.reshape(-1, 4), axis=0).shape[0] > 20


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="at least one value"):
        AccuracyTable({"MRL": {}}, [2])
    with pytest.raises(ValueError, match=r"No series is named \['PCA'\].*\['MRL', 'FF'\]"):
        AccuracyTable(COLUMNS, [2, 4]).plot(tmp_path / "x.png", {"a": ["PCA"]})


def test_writes_a_picture_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "lines.png"
    for panels in ({"one": LINES}, {"one": LINES, "two": {"alone": [(2, 1.0)]}}):
        style = PanelStyle(ticks=[2, 4], hollow=[3], share_y=True, title="both")
        line_panels(path, panels, "dims", "top-1 (%)", style)
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [file.name for file in tmp_path.iterdir()] == ["lines.png"]


def test_lines_are_told_apart_without_colour(tmp_path, monkeypatch):
    """Nine lines: nine different pairs of dashes and marker, the same in both panels."""
    import matplotlib.figure

    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *args, **options: (figures.append(self), save(self, *args, **options)),
    )
    line_panels(tmp_path / "lines.png", {"one": LINES, "two": LINES}, "dims", "top-1 (%)")
    styles = []
    for axis in figures[0].axes:
        handles, names = axis.get_legend_handles_labels()
        assert names == list(LINES)
        styles.append([(handle.get_linestyle(), handle.get_marker()) for handle in handles])
    assert styles[0] == styles[1]
    assert len(set(styles[0])) == 9


@pytest.mark.parametrize("panels", [{}, {"empty": {}}, {"empty": {"line": []}}])
def test_nothing_to_draw(panels, tmp_path):
    with pytest.raises(ValueError, match="Each panel needs at least one point"):
        line_panels(tmp_path / "lines.png", panels, "x", "y")
    assert not list(tmp_path.iterdir())
