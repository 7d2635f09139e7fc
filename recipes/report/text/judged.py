"""Documents and queries with judgements, of TFDS sets, and their embeddings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from recipes.common.corpus import Source, text_corpus
from recipes.report.parts.cache import ResultCache
from recipes.report.text.encoders import TextEncoder

_BATCH = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class JudgedTexts:
    """Texts and which documents are relevant to which queries.

    Args:
        name: str, as pages call it.
        documents: list of str.
        queries: {split: list of str}.
        judgements: {split: int (judgements, 3)}: row of the query, row of the document, degree.
    """

    name: str
    documents: Sequence[str]
    queries: Mapping[str, Sequence[str]]
    judgements: Mapping[str, np.ndarray]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all texts and judgements."""
        hashed = hashlib.sha256(_joined(self.documents))
        for split, texts in self.queries.items():
            hashed.update(f"{split} {self.judgements[split].tolist()}".encode() + _joined(texts))
        return hashed.hexdigest()

    def gains(self, split: str) -> list[dict[int, float]]:
        """{row of a document: degree} of each query."""
        found = [{} for _ in self.queries[split]]
        for query, document, degree in self.judgements[split].tolist():
            found[query][document] = float(degree)
        return found


def read_judged(documents: Source, queries: Source, splits: Mapping[str, str]) -> JudgedTexts:
    """Reads two TFDS sets.

    Args:
        documents: `Source` with `texts`, whose texts are joined by a space, and `ids`.
        queries: `Source` with `texts` and `relevant`, the feature with the relevant ids; its
            split is not read.
        splits: {name here: split of the queries}.

    Raises:
        ValueError: a set, split or feature that is not there, or a judgement of an id that no
            document has.
    """
    rows = list(text_corpus(documents, (), None, _BATCH).read(0))
    texts = [text for batch in rows for text in batch.inputs.tolist()]
    place = {str(name): row for row, name in enumerate(i for batch in rows for i in batch.ids)}
    found, judgements = {}, {}
    for name, split in splits.items():
        source, asked, triples = dataclasses.replace(queries, split=split), [], []
        for batch in text_corpus(source, (), None, _BATCH).read(0):
            for text, relevant in zip(batch.inputs.tolist(), batch.relevant, strict=True):
                relevant = [str(one) for one in relevant]
                unknown = [one for one in relevant if one not in place]
                if unknown:
                    raise ValueError(
                        f"Every judged id must be a document's. {queries.name} {split} names "
                        f"{unknown[0]!r}, which {documents.name} has not."
                    )
                triples += [(len(asked), place[one], 1) for one in relevant]
                asked.append(text)
        found[name], judgements[name] = asked, np.array(triples, np.int64).reshape(-1, 3)
    return JudgedTexts(documents.name.removesuffix("_corpus"), texts, found, judgements)


def embedded(encoder: TextEncoder, texts: Sequence[str], cache: ResultCache) -> np.ndarray:
    """float32 (texts, d), computed where the cache lacks them."""
    digest = hashlib.sha256(_joined(texts)).hexdigest()
    parts = {**encoder.key, "texts": digest, "count": len(texts)}
    return cache.arrays(parts, lambda: {"embeddings": encoder.embed(texts)})["embeddings"]


def _joined(texts):
    return "\0".join(texts).encode()
