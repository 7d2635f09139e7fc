"""Names of the variables of models and optimizers: unique, and the same in every process.

`variable.path` is neither: it repeats, and Keras counts the layers, seed generators and variables
without a name of their own over all that a process has made ("dense_7").
"""

import re

import keras


def model_variables(model):
    """The variables of a model by name, in the model's order, seed generators included.

    A name is made of the names of the layers from the model down to the variable's owner, and the
    variable's own: "stage2_block0_conv1/kernel", "embedder/bert/word_embeddings.embeddings". What
    was named by Keras's counters is numbered from 0 among its neighbours: of the second model of a
    process, "dense_2" is "dense". What is still the same gets "#2", "#3", ... A variable that
    several layers share has the name of the first. Metrics are left out.

    Args:
        model: `keras.Model`, built.

    Returns:
        A dict from names to `keras.Variable`s.

    Example:

    >>> layers = [keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1, name="head")]
    >>> list(model_variables(keras.Sequential(layers)))
    ['dense/kernel', 'dense/bias', 'head/kernel', 'head/bias']
    """
    metrics = {id(variable) for variable in model.metrics_variables}
    names = {}
    _name_own(model, "", names)
    variables = [v for v in model.variables if id(v) not in metrics]
    unique = _unique([names.get(id(v), v.path) for v in variables])
    return dict(zip(unique, variables, strict=True))


def optimizer_variables(optimizer, names):
    """The variables of an optimizer by name, in its order.

    What belongs to a variable of the model has that one's name and what it is, such as
    "head/kernel/velocities"; the others have their own, such as "iteration".

    Args:
        optimizer: `keras.optimizers.Optimizer`, built.
        names: dict from `id` of the model's variables to their names.

    Returns:
        A dict from names to `keras.Variable`s.
    """
    slots = _slots(optimizer, names)
    own = number_from_zero([v.name for v in optimizer.variables], "variable")
    found = [slots.get(id(v), name) for v, name in zip(optimizer.variables, own, strict=True)]
    return dict(zip(_unique(found), optimizer.variables, strict=True))


def loss_variables(model):
    """The variables of what a compiled model's losses keep, such as weights that adapt, by name.

    Args:
        model: `keras.Model`; one that is not compiled has none.

    Returns:
        A dict from names, such as "adaloss/weights", to `keras.Variable`s.
    """
    losses = keras.tree.flatten(getattr(model, "loss", None))
    owners = {id(one): one for one in (getattr(x, "relative_importance", None) for x in losses)}
    kept = [one for one in owners.values() if isinstance(one, keras.metrics.Metric)]
    names = [f"{one.name}/{variable.name}" for one in kept for variable in one.variables]
    variables = [variable for one in kept for variable in one.variables]
    return dict(zip(_unique(names), variables, strict=True))


def number_from_zero(names, pattern=".*?"):
    """`names` whose numbers at the end, as in "conv2d_7", are replaced by their ranks.

    Numbers are ranked among the same words: "conv2d_7", "conv2d_9" become "conv2d", "conv2d_1".

    Args:
        names: list of str.
        pattern: str, a regular expression of the words, or one for each name. Default: any.

    Returns:
        A list of str.

    >>> number_from_zero(["conv2d_7", "conv2d_9", "head"])
    ['conv2d', 'conv2d_1', 'head']
    """
    patterns = [pattern] * len(names) if isinstance(pattern, str) else pattern
    split, numbers = [], {}
    for name, words in zip(names, patterns, strict=True):
        match = re.fullmatch(rf"({words})(?:_(\d+))?", name)
        split.append((match[1], int(match[2] or 0)) if match else (name, 0))
        numbers.setdefault(split[-1][0], set()).add(split[-1][1])
    ranks = [sorted(numbers[words]).index(number) for words, number in split]
    return [f"{words}_{n}" if n else words for (words, _), n in zip(split, ranks, strict=True)]


def _name_own(layer, prefix, names):
    """Adds {id of a variable: name} of a layer and of those within it."""
    children = [
        c for c in layer._flatten_layers(include_self=False, recursive=False) if c.variables
    ]
    theirs = {id(v) for child in children for v in child.variables}
    own = [v for v in layer.variables if id(v) not in theirs]
    for variable, name in zip(
        own, _unique(number_from_zero([v.name for v in own], "variable")), strict=True
    ):
        names.setdefault(id(variable), prefix + name)
    patterns = [f".*{_snake_case(type(child).__name__)}" for child in children]
    found = _unique(number_from_zero([child.name for child in children], patterns))
    for child, name in zip(children, found, strict=True):
        _name_own(child, f"{prefix}{name}/", names)


def _slots(optimizer, names):
    """{id: name} of the variables that an optimizer keeps for each variable of the model."""
    trained, found = optimizer._trainable_variables, {}
    for attribute, value in vars(optimizer).items():
        if isinstance(value, keras.optimizers.Optimizer):  # within LossScaleOptimizer
            found |= _slots(value, names)
        elif attribute in ("_variables", "_trainable_variables"):
            continue
        elif isinstance(value, (list, tuple)) and len(value) == len(trained):
            for variable, slot in zip(trained, value, strict=True):
                if isinstance(slot, keras.Variable):
                    found[id(slot)] = f"{names[id(variable)]}/{attribute.strip('_')}"
    return found


def _unique(names):
    """`names`, where those that repeat get "#2", "#3", ..."""
    found, times = [], {}
    for name in names:
        times[name] = times.get(name, 0) + 1
        found.append(f"{name}#{times[name]}" if times[name] > 1 else name)
    return found


def _snake_case(name):
    """The name that Keras gives a layer of the class `name`, without its number."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
