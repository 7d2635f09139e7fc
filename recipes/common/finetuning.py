"""Pretrained weights and frozen parts, as a config of any task names them.

    init_from  the pretrained weights of a task's networks, but for heads: the work directory of a
               run, a `.keras` file, a Model Garden checkpoint (backbones "garden:..." and all
               texts), a folder with a preset of KerasHub's BERT (texts), or "imagenet" for
               the weights of `keras.applications` (backbones "applications:..."), which Keras
               downloads; several with commas between them, such as one for each tower;
               empty starts from random weights
    unfrozen   the parts that are trained, as names with * such as "head,stage5_block2*" (see
               `mrl_keras.models.train_only`); empty trains all

A text task takes the vocabulary of such a run with its weights, and of its tables of words and
positions the rows that it needs. `init_from` is read when a run begins; when it goes on, its
checkpoint has the weights.
"""

import numpy as np

from mrl_keras.files import exists, join
from mrl_keras.models import GardenBert, image_backbone, load_backbone, train_only
from mrl_keras.models.garden import hub_preset
from recipes.common.run import Run


def freeze_parts(config, model):
    """Freezes the parts that `config.unfrozen` leaves out.

    Raises:
        ValueError: a name that fits no part, or parts frozen at random weights.
    """
    patterns = [part for part in config.get("unfrozen", "").replace(" ", "").split(",") if part]
    if not patterns or patterns == ["*"]:
        return
    if not config.get("init_from"):
        raise ValueError(
            f"`unfrozen` is {config.unfrozen!r}, which would freeze the rest at random weights: "
            "set `init_from` too."
        )
    trained = train_only(model, patterns)
    inside = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    print(f"Trains {inside} of {model.count_params()} weights: {', '.join(trained)}", flush=True)


def sources(config):
    """The names in `config.init_from`: a list of str."""
    return [name.strip() for name in config.get("init_from", "").split(",") if name.strip()]


def is_run(source):
    """Whether a name in `init_from` is the work directory of a run."""
    return exists(join(source, "config.json")) and not hub_preset.is_preset(source)


def load_initial_weights(the_task, model):
    """Loads the weights of `config.init_from` into a model; an empty one changes nothing.

    Args:
        the_task: the run's `Task`, with its config.
        model: the run's, built.

    Raises:
        ValueError: no weights there, or those of another network.
        ImportError: a preset of KerasHub where it is not installed.
    """
    for source in sources(the_task.config):
        mistakes = []
        for part, head in the_task.pretrained_parts(model):
            try:
                left = load_backbone(part, _weights(source, the_task.config, part), head)
            except ValueError as error:
                mistakes.append(error)
            else:
                text = f", without {left} arrays of its head" if left else ""
                print(f"{part.name} starts from {source}{text}", flush=True)
                break
        else:
            raise ValueError(" ".join(map(str, mistakes))) from mistakes[0]


def _weights(source, config, part):
    if source == "imagenet":
        return _imagenet_weights(config, part)
    if is_run(source):
        return _needed_rows(Run.open(source).checkpoints.model_arrays(), part)
    if hub_preset.is_preset(source):
        return _needed_rows(hub_preset.bert_arrays(source), part)
    return source


def _needed_rows(arrays, part):
    """`arrays`, with as many rows of the tables of words and positions as BERT has."""
    if not isinstance(part, GardenBert) or not isinstance(arrays, dict):
        return arrays
    rows = {"word_embeddings.": part.vocab_size, "position_embedding.": part.max_length}

    def needed(name):
        return next((n for words, n in rows.items() if words in name.split("/")[-1]), None)

    return {name: array[: needed(name)] for name, array in arrays.items()}


def _imagenet_weights(config, model):
    name = config.get("model", {}).get("backbone", "")
    if not name.startswith("applications:"):
        raise ValueError(
            "`init_from` 'imagenet' is for the backbones of image classification that are of "
            "keras.applications, such as 'applications:ResNet50'. Received the backbone "
            f"{name!r}."
        )
    options = {**config.model.options, "weights": "imagenet"}
    return image_backbone(name, model.input_shape[1:], **options).variables
