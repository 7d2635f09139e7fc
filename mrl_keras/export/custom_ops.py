"""The custom ops that a SavedModel may need: which of them it has, and the libraries with them."""

from __future__ import annotations

import dataclasses
import importlib
import os

from tensorflow.core.protobuf import saved_model_pb2

from mrl_keras.export.versions import MODEL_FILE

# tensorflow-text's older ops have no package in their names.
_TEXT_OPS = {
    "CaseFoldUTF8",
    "FastBertNormalize",
    "FastWordpieceTokenizeWithOffsets",
    "NormalizeUTF8",
    "RegexSplitWithOffsets",
    "SentencepieceOp",
    "SentencepieceTokenizeOp",
    "UnicodeScriptTokenizeWithOffsets",
    "WhitespaceTokenizeWithOffsets",
    "WordpieceTokenizeWithOffsets",
}


@dataclasses.dataclass(frozen=True)
class OpLibrary:
    """A library with custom ops.

    Args:
        name: str, its name for pip.
        module: str, the module whose import registers the ops.
        use: str, what a model does with the ops, for an error's text.
        extra: str, the extra of this package that installs it.
        advice: str, a further sentence of the error's text.
    """

    name: str
    module: str
    use: str
    extra: str
    advice: str = ""

    def import_ops(self, model: str) -> None:
        """Registers the ops with TensorFlow, for the model of the name `model`.

        Raises:
            ImportError: the library is not installed.
        """
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            raise ImportError(
                f"The model {model!r} {self.use}, which are not installed. Install them with: "
                f'pip install "mrl_keras[{self.extra}]".{self.advice}'
            ) from error


OP_LIBRARIES = {
    "Scann": OpLibrary(
        "scann",
        "scann.scann_ops.py.scann_ops",
        "searches with ScaNN's ops",
        "retrieval",
        " A twin that was exported with `twin=True` needs no such ops.",
    ),
    "TFText": OpLibrary(
        "tensorflow-text", "tensorflow_text", "reads text with tensorflow-text's ops", "models"
    ),
}
"""The libraries by the names that a manifest's `custom_ops` holds."""


def custom_op_packages(path: str) -> list[str]:
    """The packages of the custom ops in a SavedModel: `Scann` of `Scann>TensorsToScann`."""
    with open(os.path.join(path, MODEL_FILE), "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    ops = set()
    for graph in (part.graph_def for part in saved.meta_graphs):
        ops.update(node.op for node in graph.node)
        ops.update(node.op for function in graph.library.function for node in function.node_def)
    packages = {op.split(">")[0] for op in ops if ">" in op}
    return sorted(packages | {"TFText"} if ops & _TEXT_OPS else packages)
