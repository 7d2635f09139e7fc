import math

import pytest

from mrl_keras.evaluation import line_panels

LINES = {
    f"system {i}": [(2, 60.0 + i, 0.5), (3, 61.0 + i), (4, 70.0 - i, math.nan)] for i in range(9)
}


def test_writes_a_picture_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "lines.png"
    for panels in ({"one": LINES}, {"one": LINES, "two": {"alone": [(2, 1.0)]}}):
        line_panels(path, panels, "dims", "top-1 (%)", ticks=[2, 4], hollow=[3], share_y=True)
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
