"""A log-log plot of search time against the number of rows."""

from __future__ import annotations

from mrl_keras.plots import LINE_STYLES, MARKERS, new_figure, save_figure


def plot_growth(rows, path):
    """Draws time for each query, in batches and alone, against N; one line for each system.

    Args:
        rows: dicts with `n`, `system`, `within_tolerance`, `us_per_query` and `p50_ms`.
        path: PNG file to write.
    """
    systems = list(dict.fromkeys(row["system"] for row in rows))
    figure, (panels,) = new_figure((12, 5.5), columns=2, sharex=True)
    titles = {
        "us_per_query": "Batches of 256: microseconds a query",
        "p50_ms": "One query at a time: median milliseconds",
    }
    for panel, (column, title) in zip(panels, titles.items(), strict=True):
        for place, system in enumerate(systems):
            points = [row for row in rows if row["system"] == system and row[column] != ""]
            points = sorted(points, key=lambda row: int(row["n"]))
            if not points:
                continue
            equal = all(str(row["within_tolerance"]) == "True" for row in points)
            panel.plot(
                [int(row["n"]) for row in points],
                [float(row[column]) for row in points],
                marker=MARKERS[place % len(MARKERS)],
                linestyle=LINE_STYLES[place % len(LINE_STYLES)],
                markerfacecolor=None if equal else "white",
                label=system if equal else f"{system} (below equal mAP)",
            )
        panel.set(xscale="log", yscale="log", xlabel="rows N", title=title)
        ticks = sorted({int(row["n"]) for row in rows})
        panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        panel.minorticks_off()
        panel.grid(True, which="both", alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    save_figure(figure, path, dpi=130)
