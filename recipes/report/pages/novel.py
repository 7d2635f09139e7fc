"""Retrieval among classes that no run was trained on, as the paper's ImageNet-4K."""

from __future__ import annotations

from recipes.report.pages.plans import plan_parts, plan_tables, tuned
from recipes.report.pages.retrieval import exact_parts, exact_search, lengths_of
from recipes.report.parts import claims
from recipes.report.parts.page import Page, not_measured

PREFIX = "novel_"


def page(study) -> Page:
    slug, title = "novel", "Retrieval of novel classes (Tables 10, 12, 14, 31)"
    if not study.options.novel:
        wants = "novel classes want a TFDS set of them (--novel=SET)."
        return not_measured(slug, title, wants)
    sources = study.novel_sources()
    first = sources[0].outputs()
    rows, queries = len(first["train_labels"]), len(first["labels"])
    ks, mrl = lengths_of(rows), [source for source in sources if source.system == "MRL"]
    exact = exact_search(study, ks, sources)
    top = f"mAP@{ks[0]}"
    parts = [
        *exact_parts(study, exact, rows, top, PREFIX),
        *plan_parts(study, plan_tables(study, mrl, rows, ks), ks, PREFIX),
    ]
    claim = f"MRL retrieves novel classes at least as well as FF, within the noise ({top})"
    verdicts, left_out = claims.mrl_against_ff(claim, exact[top]), []
    if study.options.tuning and rows >= 2 * max(ks):
        part, verdict = tuned(study, mrl, PREFIX, "queries")
        parts.append(part)
        of_novel = verdict.claim.replace("(mAP@10, ", "for novel classes (mAP@10, ")
        verdicts.append(claims.verdict(of_novel, verdict.holds, verdict.numbers))
    else:
        left_out.append("the tuned plan wants a larger database, and --tuning.")
    return Page(
        slug,
        title,
        f"{queries:,} images of {study.options.novel} are queries, {rows:,} others of the same "
        "classes the database. No run was trained on one of these classes. Everything else is as "
        "on the page of [retrieval](retrieval.md).",
        parts,
        verdicts,
        left_out,
    )
