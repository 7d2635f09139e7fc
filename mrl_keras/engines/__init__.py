"""Search engines that hold nested embeddings: rows in by id, answers out by a `SearchPlan`.

| | `NestedIndex` | `QdrantEngine` | `PgvectorEngine` | `VespaApplication` |
|---|---|---|---|---|
| shortlist | exact, ScaNN, signs, leaves | HNSW on a vector | HNSW on a prefix | HNSW on a field |
| reranks | any number | any number | any number | two |
| exact answers | yes, certified | `exact=True` | `exact=True` | of the shortlist |
| rows change | no: build again | yes | yes | yes |
| filters | no | yes | yes, by SQL | yes, by YQL |
"""

from mrl_keras.engines.engine import Engine, EngineResult
from mrl_keras.engines.postgres import PgvectorEngine, PgvectorOptions
from mrl_keras.engines.qdrant import QdrantEngine, QdrantOptions
from mrl_keras.engines.vespa import VespaApplication

__all__ = [
    "Engine",
    "EngineResult",
    "PgvectorEngine",
    "PgvectorOptions",
    "QdrantEngine",
    "QdrantOptions",
    "VespaApplication",
]
