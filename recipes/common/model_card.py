"""The card of an exported model: what it is, what made it, and its numbers at every prefix."""

from mrl_keras.export import load_manifest


def model_card(path, about, made_by):
    """Markdown for the folder of an exported model, from its manifest.

    Args:
        path: the version's folder, as `export_saved_model` returns it.
        about: a sentence without its full stop: architecture, head and data set.
        made_by: recipe and command.
    """
    manifest = load_manifest(str(path))
    dims, retrieval = manifest["nesting_dims"], manifest["retrieval"]
    versions = ", ".join(f"{key} {value}" for key, value in manifest["libraries"].items())
    metrics = manifest["metrics"]
    rows = [
        "| dims | " + " | ".join(f"{name} top-1 (%)" for name in metrics) + " |",
        "|---:|" + "---:|" * len(metrics),
    ]
    for dim in dims:
        values = [f"{100 * values[str(dim)]:.2f}" for values in metrics.values()]
        rows.append(f"| {dim} | " + " | ".join(values) + " |")
    plan = retrieval["plan"]
    signatures = ", ".join(f"`{signature}`" for signature in sorted(manifest["signatures"]))
    loading = "Loading needs no custom op"
    if manifest["custom_ops"]:
        loading = "Loading needs ScaNN's op library beside TensorFlow"
    return "\n".join(
        [
            f"# {manifest['name']}, version {manifest['version']}",
            "",
            f"{about}, and the nested index of {retrieval['rows']} training examples.",
            "",
            f"- {made_by}",
            f"- Versions: {versions}",
            f"- Nesting dims: {', '.join(map(str, dims))}",
            f"- Retrieval: a shortlist of {plan['sizes'][0]} rows by {plan['dims'][0]} dims "
            f"({retrieval['shortlist']['kind']}), reranked by {plan['dims'][-1]} dims; an id is "
            "CLASS/ROW of the training split",
            f"- Signatures: {signatures}",
            f"- {loading}; `recipes/query.py` shows how",
            "",
            *rows,
            "",
        ]
    )
