"""Past one machine: a corpus embedded by Apache Beam, in shards with an index each.

```python
embed_corpus(["texts/*.txt"], "corpus", "saved_models/emoji")            # any runner of Beam
corpus = EmbeddedCorpus("corpus")
for rows in corpus.read(dim=16):                                         # one prefix alone
    rows.ids, rows.vectors, rows.payload
build_shards(corpus, "shards", plan)                                     # an index for each shard
answers = [index.search(queries, plan) for index in load_shards("shards")]
merge_results([a.scores for a in answers], [a.ids for a in answers], k=10)
```
"""

from mrl_keras.scale.capacity import Capacity, MachineSpeed, StoredRows, capacity
from mrl_keras.scale.corpus import CorpusRows, EmbeddedCorpus, Layout, shard_of
from mrl_keras.scale.encoder import ExportedEncoder
from mrl_keras.scale.pipeline import EmbedOptions, embed_corpus, embed_handler, throughput
from mrl_keras.scale.records import RecordOptions
from mrl_keras.scale.shards import build_shards, load_shards

__all__ = [
    "Capacity",
    "CorpusRows",
    "EmbedOptions",
    "EmbeddedCorpus",
    "ExportedEncoder",
    "Layout",
    "MachineSpeed",
    "RecordOptions",
    "StoredRows",
    "build_shards",
    "capacity",
    "embed_corpus",
    "embed_handler",
    "load_shards",
    "shard_of",
    "throughput",
]
