"""Export: one SavedModel with encoder, nested index and rerank, as TF Serving reads it."""

from mrl_keras.export.loading import load
from mrl_keras.export.manifest import load_manifest
from mrl_keras.export.options import ServingOptions
from mrl_keras.export.saved_model import export_saved_model
from mrl_keras.export.versions import models_config, write_models_config

__all__ = [
    "ServingOptions",
    "export_saved_model",
    "load",
    "load_manifest",
    "models_config",
    "write_models_config",
]
