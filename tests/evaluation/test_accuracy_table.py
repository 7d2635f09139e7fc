import csv

import numpy as np
import pytest
from matplotlib.image import imread

from mrl_keras.evaluation import AccuracyTable

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
    assert two.shape[1] == 2 * one.shape[1]
    for picture in (one, two[:, : one.shape[1]], two[:, one.shape[1] :]):
        assert np.unique(picture.reshape(-1, 4), axis=0).shape[0] > 20


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="at least one value"):
        AccuracyTable({"MRL": {}}, [2])
    with pytest.raises(ValueError, match=r"No series is named \['PCA'\].*\['MRL', 'FF'\]"):
        AccuracyTable(COLUMNS, [2, 4]).plot(tmp_path / "x.png", {"a": ["PCA"]})
