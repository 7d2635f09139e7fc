"""What an export may be told: keys of `config.export`, each also a flag of export.py."""

from __future__ import annotations

import dataclasses

import ml_collections
from absl import flags


def _option(default, text):
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What is indexed, how the plan and the cascade are chosen, and what is written.

    The fields' help texts say what each is; `export.py --help` shows them.
    """

    corpus: str = _option(
        "own", "what is indexed: 'own' (the run's set), 'none', a TFDS set, or a folder of "
        ".npy or .parquet files",
    )  # fmt: skip
    corpus_split: str = _option("", "its split, also train+test; empty: the training split")
    max_rows: int = _option(0, "index at most so many rows; 0: all")
    ids: str = _option("", "feature with the ids; empty: class or text, and row")
    texts: str = _option("", "features whose texts are joined, as title,text; empty: the task's")
    queries: str = _option(
        "own", "what the plan and the cascade are chosen by: 'own' (the run's evaluation split), "
        "a TFDS set, or a folder",
    )  # fmt: skip
    queries_split: str = _option("", "its split; empty: the evaluation split")
    query_texts: str = _option("", "as texts, for the queries")
    relevant: str = _option("", "feature of the queries with the ids of their relevant rows")
    relevance: str = _option(
        "auto", "'judgements', 'labels', 'neighbours' (of full-width search), or 'auto', the first "
        "that is there",
    )  # fmt: skip
    held_out: float = _option(0.3, "part of the queries to choose by; the rest measures")
    least_queries: int = _option(50, "refuse to choose by fewer held-out queries")
    metric: str = _option("", "mAP@K or recall@K; empty: mAP for labels, else recall, at `k`")
    k: int = _option(10, "rows of one answer")
    tolerance: float = _option(0.01, "how far the metric may fall below full width")
    cost: str = _option("mflops", "'mflops' or 'seconds', what the plan saves")
    plan: str = _option("", "a plan by hand, as 16:200,64; empty: tuned")
    certified: bool = _option(
        False, "say for each query whether its answer is proven to be full width's; the plan must "
        "have two dims, the second of them the width",
    )  # fmt: skip
    storage: str = _option("float32", "of the index, 'float32' or 'bfloat16' (half the size)")
    cascade: str = _option("auto", "'auto' (where there is a nested classifier), 'yes' or 'no'")
    twin: bool = _option(False, "write NAME_plain too, for servers without ScaNN's ops")

    def __post_init__(self):
        for name, known in (("cascade", ("auto", "yes", "no")), ("cost", ("mflops", "seconds"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {known}. Received {getattr(self, name)!r}."
                )

    def list_of(self, name: str) -> tuple[str, ...]:
        """The names of a comma separated option."""
        return tuple(part.strip() for part in getattr(self, name).split(",") if part.strip())


def export_config(**others) -> ml_collections.ConfigDict:
    """`config.export`: every option at its default, but those of `others`, and a task's own."""
    return ml_collections.ConfigDict({**dataclasses.asdict(ExportOptions()), **others})


def define_export_flags(values):
    """Defines a flag for each option; one that is not given is the run's `config.export`'s."""
    define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    define[bool] = flags.DEFINE_boolean
    for field in dataclasses.fields(ExportOptions):
        default = f"default: config.export.{field.name}, {field.default!r}"
        text = f"{field.metadata['help']} ({default})"
        define[type(field.default)](field.name, None, text, flag_values=values)


def export_options(config, given=None) -> ExportOptions:
    """The options of a run: flags that were given, else its config's, else the defaults.

    Args:
        config: the run's config; one of an earlier version may have no `export`.
        given: {name: value or `None`}, perhaps with other names. Default none.
    """
    kept = config.get("export") or {}
    names = [field.name for field in dataclasses.fields(ExportOptions)]
    chosen = {name: kept[name] for name in names if name in kept}
    given = given or {}
    chosen |= {name: given[name] for name in names if given.get(name) is not None}
    return ExportOptions(**chosen)
