"""The card of an exported model: what it is, what made it, and its numbers at every prefix."""

from __future__ import annotations

from mrl_keras.export import load_manifest


def model_card(path, about: str, made_by: str) -> str:
    """Markdown for the folder of an exported model, from its manifest.

    Args:
        path: the version's folder, as `export_saved_model` returns it.
        about: a sentence without its full stop: architecture, head and data set.
        made_by: the command.
    """
    manifest = load_manifest(str(path))
    made = manifest.get("about", {})
    versions = ", ".join(f"{key} {value}" for key, value in manifest["libraries"].items())
    signatures = ", ".join(f"`{signature}`" for signature in sorted(manifest["signatures"]))
    needed = {"Scann": "ScaNN's", "TFText": "TensorFlow Text's"}
    ops = [needed.get(name, name) for name in manifest["custom_ops"]]
    rows = [
        f"# {manifest['name']}, version {manifest['version']}",
        "",
        f"{about}.",
        "",
        f"- Made by: `{made_by}`",
        f"- Versions: {versions}",
        f"- Nesting dims: {', '.join(map(str, manifest['nesting_dims']))}",
    ]
    if manifest["retrieval"]:
        rows += _retrieval("retrieve", manifest["retrieval"], made.get("retrieval", {}))
    for name, one in manifest.get("retrievals", {}).items():
        rows += _retrieval(f"retrieve_{name}", one, made.get("retrievals", {}).get(name, {}))
    if manifest["cascade"]:
        rows += _cascade(manifest["cascade"], made.get("cascade", {}))
    rows += [
        f"- Signatures: {signatures}",
        f"- Loading needs {' and '.join(ops) + ' op library' if ops else 'no custom op'}; "
        "`recipes/query.py` shows how",
        "",
        *_table(manifest["metrics"], manifest["nesting_dims"]),
        "",
    ]
    return "\n".join(rows)


def search_text(dims, sizes) -> str:
    """The dims and sizes of a `SearchPlan` in words.

    >>> search_text((8, 64), (50,))
    '50 rows by 8 dims, reranked by 64 dims'
    """
    stages = [f"{size} rows by {dim} dims" for dim, size in zip(dims, sizes, strict=False)]
    search = f"{', then '.join(stages)}, reranked by" if stages else "exact search by"
    return f"{search} {dims[-1]} dims"


def _retrieval(signature, described, made):
    """Lines on one index and its plan."""
    corpus, chosen, plan = made.get("corpus", {}), made.get("plan", {}), described["plan"]
    of = " ".join(filter(None, (corpus.get("set"), corpus.get("split"))))
    line = (
        f"- `{signature}`: {described['rows']:,} rows{of and ' of ' + of}; "
        f"{search_text(plan['dims'], plan['sizes'])} ({described['shortlist']['kind']})"
    )
    if chosen.get("by") == "tuning":
        measured = chosen.get("rest") or chosen["held_out"]
        where = "the other" if "rest" in chosen else "the same"
        line += (
            f", tuned on {chosen['queries']['held_out']:,} held-out queries by "
            f"{chosen['relevance']}; {chosen['metric']} on {where} queries "
            f"{measured['plan']:.4f}, full width {measured['full_width']:.4f}"
        )
    return [line]


def _cascade(policy, made):
    line = (
        f"- `classify_adaptive`: thresholds {', '.join(f'{t:.3g}' for t in policy['thresholds'])}"
    )
    if "accuracy" in made:
        line += (
            f", learned on {made['queries']['held_out']:,} held-out examples; on the other "
            f"{made['queries']['rest']:,} top-1 is {made['accuracy']:.4f} with "
            f"{made['expected_dims']:.1f} dims on average, full width "
            f"{made['full_width_accuracy']:.4f}"
        )
    return [line]


def _table(metrics, dims):
    """Metrics by prefix, those of the nesting dims."""
    named = {
        name: values for name, values in metrics.items() if values.keys() & set(map(str, dims))
    }
    if not named:
        return []
    rows = [f"| dims | {' | '.join(named)} |", "|---:|" + "---:|" * len(named)]
    for dim in map(str, dims):
        values = (f"{v[dim]:.4f}" if dim in v else "" for v in named.values())
        rows.append(f"| {dim} | {' | '.join(values)} |")
    return rows
