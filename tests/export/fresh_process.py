"""Loads exported models with TensorFlow and ScaNN's op library alone; see test_fresh_process.py.

python fresh_process.py CASES.json ANSWERS.json
"""

import importlib.util
import json
import os
import sys
import threading

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

RETRIEVE = "retrieve_embeddings"


def load_op_library():
    folder = importlib.util.find_spec("scann").submodule_search_locations[0]
    tf.load_op_library(os.path.join(folder, "scann_ops", "cc", "_scann_ops.so"))


def unknown_ops(path):
    """The ops of a SavedModel that this process does not know, without its own functions."""
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].graph_def
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    own = {function.signature.name for function in functions}
    return sorted({n.op for n in nodes if op_def_registry.get(n.op) is None} - own)


def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))


def example(fn, queries, plan):
    """Inputs of a signature: the queries, the plan's numbers, and ones for the rest."""
    inputs = {}
    for name, spec in fn.structured_input_signature[1].items():
        shape = [len(queries) if size is None else size for size in spec.shape]
        inputs[name] = tf.cast(tf.fill(shape, plan.get(name, 1)), spec.dtype)
    if "embedding" in inputs:
        inputs["embedding"] = tf.constant(queries)
    return inputs


# Version 1 stays loaded beside version 2, as during a server's swap.
loaded = []


def by_loader(path, queries, plan):
    """ids by tf.saved_model.load, and how many threads and bytes each first call adds."""
    model = tf.saved_model.load(path)
    loaded.append(model)
    first, growth = None, []
    for fn in sorted(model.signatures.items()):
        fn[1](**example(fn[1], queries, plan))
        if "retrieve" in fn[0]:
            threads = status("Threads")
            first = threads if first is None else first
            growth.append(threads - first)
    before = status("VmRSS")
    for _ in range(5):
        for fn in model.signatures.values():
            fn(**example(fn, queries, plan))
    answer = model.signatures[RETRIEVE](embedding=tf.constant(queries))
    parts = getattr(model.searches["retrieve"].nested_search.finder, "parts", None)
    return {
        "ids": answer["ids"].numpy().astype(str).tolist(),
        "threads": growth,
        "grown_kib": status("VmRSS") - before,
        "parts": [] if parts is None else [int(tf.size(v)) for v in parts.parts.values()],
    }


def by_session(path, queries):
    """Answers by the loader that TF Serving's bundle factory shares, without the defaults fed."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], path)

        def run(name, **inputs):
            signature = meta.signature_def[name]
            feed = {signature.inputs[key].name: value for key, value in inputs.items()}
            outputs = {key: value.name for key, value in signature.outputs.items()}
            return session.run(outputs, feed)

        poisoned = queries.copy()
        poisoned[1] = np.nan
        answers = {
            "ids": run(RETRIEVE, embedding=queries),
            "defaults": run(f"{RETRIEVE}_dynamic", embedding=queries),
            "two": run(f"{RETRIEVE}_dynamic", embedding=queries, k=np.int32(2)),
            "one": run(f"{RETRIEVE}_dynamic", embedding=queries, k=np.int32(-5)),
            "poisoned": run(RETRIEVE, embedding=poisoned),
        }
        empty = run(RETRIEVE, embedding=queries[:0])
        # As a C++ session does, the callable takes any shape.
        signature = meta.signature_def[RETRIEVE]
        feed = session.make_callable(
            signature.outputs["ids"].name, [signature.inputs["embedding"].name]
        )
        refused = []
        for rows in (queries[:, :5], np.hstack([queries, queries])):
            try:
                feed(rows)
            except (ValueError, tf.errors.InvalidArgumentError):
                refused.append(rows.shape[1])
    return {
        **{name: answer["ids"].astype(str).tolist() for name, answer in answers.items()},
        "empty": list(empty["ids"].shape),
        "wrong_width_refused": refused,
    }


def race(path, queries, plan, threads=8, rounds=2):
    """ids of first requests that arrive at once."""
    answers = []
    for _ in range(rounds):
        model, gate = tf.saved_model.load(path), threading.Barrier(threads)
        names = [RETRIEVE, f"{RETRIEVE}_batch"]

        def ask(number, model=model, gate=gate, names=names):
            fn = model.signatures[names[number % 2]]
            inputs = example(fn, queries, plan)
            gate.wait()
            answers.append(fn(**inputs)["ids"].numpy().astype(str).tolist())

        workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return answers


def two_indexes(path, queries):
    """ids of both indexes of one model, by both loaders."""
    model = tf.saved_model.load(path)
    answers = {
        f"loader {name}": fn(embedding=tf.constant(queries))["ids"].numpy()
        for name, fn in model.signatures.items()
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], path)
        for name in answers.copy():
            signature = meta.signature_def[name.split()[1]]
            feed = {signature.inputs["embedding"].name: queries}
            answers[name.replace("loader", "session")] = session.run(
                signature.outputs["ids"].name, feed
            )
    return {name: ids.astype(str).tolist() for name, ids in answers.items()}


def adaptive(path, raw):
    """What `classify_adaptive` answers."""
    signature = tf.saved_model.load(path).signatures["classify_adaptive"]
    answer = signature(raw=tf.constant(raw, tf.float32))
    return {name: value.numpy().tolist() for name, value in answer.items()}


def main(cases_file, answers_file):
    with open(cases_file) as file:
        cases = json.load(file)
    queries, plan = np.array(cases["queries"], "float32"), cases["plan"]
    models = cases["models"]
    answers = {"unknown": {name: unknown_ops(path) for name, path in models.items()}}
    by_name = {"plain": by_loader(models["plain"], queries, plan)}
    load_op_library()
    for name in ("first", "second"):
        by_name[name] = by_loader(models[name], queries, plan)
    answers |= {
        "before_ops": by_name["plain"]["ids"],
        "loader": by_name,
        "cascades": {name: adaptive(*case) for name, case in cases["cascades"].items()},
        "session": {name: by_session(path, queries) for name, path in models.items()},
        "race": race(models["first"], queries, plan),
        "two": two_indexes(cases["two_indexes"], queries),
        "modules": sorted(set(sys.modules) & {"mrl_keras", "scann"}),
    }
    with open(answers_file, "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
