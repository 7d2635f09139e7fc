"""Export: one SavedModel with encoder, nested index and rerank, as TF Serving reads it.

```python
path = export_saved_model(
    "saved_models/digits", encoder, classifier=head, index=index,
    plan=SearchPlan.adaptive(shortlist_dim=8, shortlist=100, rerank_dim=64),
    options=ServingOptions(twin=True),
)                                       # saved_models/digits/1, saved_models/digits_plain/1
write_models_config("saved_models", base_path="/models")
answer = load("saved_models/digits").signatures["retrieve"](images)
```

What a server needs to know:

- **Custom ops.** A ScaNN shortlist needs a server that links ScaNN's ops, of the versions that the
  manifest names, on a CPU with AVX2 and FMA; the stock TF Serving image lacks them and refuses to
  load the model. The twin runs anywhere: it opens the same leaves and scores them exactly, which
  takes longer. Sign bits and partitions (`IndexOptions`) need no custom ops. A model that takes
  raw text (`mrl_keras.models.BertTokens`) needs a server that links tensorflow-text's ops, as the
  stock image does, and so does its twin; `custom_ops` in the manifest then names TFText.
- **Which signature.** `retrieve` and `retrieve_embeddings` have no optional inputs. Their
  `_dynamic` variants take `k`, `shortlist` and `leaves`; over gRPC a server fills in those that
  are left out, over REST all must be sent. Their `_batch` variants take one number for each row:
  use these where a server merges requests into batches, and turn its warm-up off, which
  sends scalars too.
- **From Python** `SessionModel` answers soonest, batches and single queries. One query at a time is
  best answered on the thread that asks, as it does; a server does so by the environment variable
  TF_NUM_INTEROP_THREADS=-1.
- **Empty slots** hold id "" or -1, index -1 and the lowest float32, since JSON has no NaN or
  infinity. A query with NaN or infinity gets only empty slots; its neighbours are untouched.
- **Versions.** The index cannot grow in place: export the next version. A server holds the old and
  the new one while it swaps them, so plan for twice the memory.
- **Saving a loaded model again** fails where it has a ScaNN shortlist: the parts are freed once the
  searcher is built. Export again instead.
"""

from mrl_keras.export.loading import SessionModel, load
from mrl_keras.export.manifest import load_manifest
from mrl_keras.export.options import Retrieval, ServingOptions
from mrl_keras.export.saved_model import export_saved_model
from mrl_keras.export.versions import models_config, write_models_config

__all__ = [
    "Retrieval",
    "ServingOptions",
    "SessionModel",
    "export_saved_model",
    "load",
    "load_manifest",
    "models_config",
    "write_models_config",
]
