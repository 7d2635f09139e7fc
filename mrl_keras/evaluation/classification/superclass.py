"""Accuracy over groups of classes, given as a map or found in a hierarchy of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.files import open_file


def superclass_accuracy(predictions, labels, superclasses: Sequence, names=None) -> dict:
    """How often each prefix names a class of the right superclass.

    Args:
        predictions: ints (examples, prefixes), the class that each prefix names.
        labels: ints (examples,).
        superclasses: for each class the name or number of its superclass; `None` where it has
            none, and then it counts as a superclass of its own.
        names: which superclasses to report beside "all"; `None` reports each.

    Returns:
        {superclass: float64 (prefixes,), accuracy over the examples of that superclass;
        "all": over all examples}.

    Raises:
        ValueError: shapes that don't fit, no examples, classes outside the map, a superclass
            that is unknown or has no example.

    >>> found = superclass_accuracy([[1, 0], [2, 2]], [0, 2], ["cat", "cat", "dog"])
    >>> {name: values.tolist() for name, values in found.items()}
    {'cat': [1.0, 1.0], 'dog': [1.0, 1.0], 'all': [1.0, 1.0]}

    Source: arXiv 2205.13147, Tables 24 and 25, Figures 10 and 11.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 2 or labels.shape != predictions.shape[:1] or not predictions.size:
        raise ValueError(
            "`predictions` must be (examples, prefixes) with at least one example, and `labels` "
            f"(examples,). Received the shapes {predictions.shape} and {labels.shape}."
        )
    classes = len(superclasses)
    for what, values in (("predictions", predictions), ("labels", labels)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"`{what}` must be ints. Received {values.dtype}.")
        if values.min() < 0 or values.max() >= classes:
            raise ValueError(
                f"`{what}` must be classes of the map, 0 to {classes - 1}. Received "
                f"{values.min()} to {values.max()}."
            )
    own = [("class", i) if group is None else group for i, group in enumerate(superclasses)]
    known = list(dict.fromkeys(group for group in superclasses if group is not None))
    number = {group: i for i, group in enumerate(dict.fromkeys(own))}
    group_of = np.array([number[group] for group in own])
    right = group_of[predictions] == group_of[labels][:, None]
    found = {}
    for name in known if names is None else names:
        if name not in known:
            raise ValueError(
                f"There is no superclass {name!r}. There are {known[:20]}"
                f"{' and more' if len(known) > 20 else ''}."
            )
        here = group_of[labels] == number[name]
        if here.any():
            found[name] = right[here].mean(axis=0)
        elif names is not None:
            raise ValueError(f"No example has the superclass {name!r}.")
    return {**found, "all": right.mean(axis=0)}


def superclasses_of(
    classes: Sequence[str], hierarchy: Iterable[tuple[str, str]], superclasses: Sequence[str]
) -> list[str | None]:
    """Each class's superclass, found by walking a hierarchy of names upwards.

    For ImageNet the classes are WordNet ids such as "n02123045", and the hierarchy is WordNet's
    file of hyponyms: pairs (child, parent).

    Args:
        classes: names of the classes, by number.
        hierarchy: pairs (child, parent); a child may have several parents.
        superclasses: the names to stop at. The nearest one counts; of several as near, the
            first in this order.

    Returns:
        For each class a superclass's name, or `None` where none is above it.

    Raises:
        ValueError: no superclasses, one that the hierarchy does not have, or a cycle.

    >>> pairs = [("tabby", "cat"), ("cat", "animal"), ("oak", "tree")]
    >>> superclasses_of(["tabby", "oak"], pairs, ["animal"])
    ['animal', None]

    Source: arXiv 2205.13147, Section 5: superclasses are groups of WordNet.
    """
    parents = _parents(hierarchy)
    known = {*parents, *(name for above in parents.values() for name in above), *classes}
    unknown = [name for name in superclasses if name not in known]
    if unknown or not len(superclasses):
        raise ValueError(
            f"`superclasses` must be names of the hierarchy. Received unknown {unknown[:10]}."
            if unknown
            else "`superclasses` must hold at least one name. Received none."
        )
    return [_nearest(name, parents, superclasses) for name in classes]


def hypernyms_at(
    classes: Sequence[str], hierarchy: Iterable[tuple[str, str]], level: int
) -> list[str]:
    """Each class's ancestor at a level of the hierarchy: level 0 is the root, 1 what is below it.

    Where a class has several paths to a root the shortest counts, and of several as short the one
    whose pairs come first. A class that is not below the level is its own superclass.

    Args:
        classes: names of the classes, by number, such as WordNet ids ("n02123045").
        hierarchy: pairs (child, parent), such as `read_hierarchy` gives.
        level: int from 0.

    Returns:
        For each class the name of its superclass, as `superclass_accuracy` takes it.

    Raises:
        ValueError: a class that the hierarchy does not have, a class that no root is above, or a
            negative level.

    >>> pairs = [("tabby", "cat"), ("cat", "animal"), ("animal", "thing"), ("oak", "thing")]
    >>> hypernyms_at(["tabby", "oak"], pairs, level=1)
    ['animal', 'oak']

    Source: arXiv 2205.13147, Tables 24 and 25, Figures 10 and 11.
    """
    parents, level = _parents(hierarchy), whole_number(level, "`level`", least=0)
    known = {*parents, *(name for above in parents.values() for name in above)}
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise ValueError(
            f"The hierarchy lacks {len(unknown)} of {len(classes)} classes, the first of them "
            f"{unknown[:5]}. Are the classes named as in the hierarchy?"
        )
    paths = [_path_from_root(name, parents) for name in classes]
    return [path[min(level, len(path) - 1)] for path in paths]


def read_hierarchy(path, order: str = "parent child") -> list[tuple[str, str]]:
    """The pairs (child, parent) of a text file with two names in each line.

    ImageNet's `wordnet.is_a.txt` names the parent first. Empty lines, and lines that begin with
    "#", are left out.

    Args:
        path: the file, UTF-8.
        order: "parent child" or "child parent". Default "parent child".

    Raises:
        ValueError: another order, no pair, or a line that is not two names.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "is_a.txt")
    ...     _ = file.write_text("n02121808 n02123045")
    ...     read_hierarchy(file)
    [('n02123045', 'n02121808')]
    """
    if order not in ("parent child", "child parent"):
        raise ValueError(f'`order` must be "parent child" or "child parent". Received {order!r}.')
    pairs = []
    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            names = line.split()
            if not names or names[0].startswith("#"):
                continue
            if len(names) != 2:
                raise ValueError(
                    f"Each line of {path} must hold two names. Line {number} holds {len(names)}."
                )
            pairs.append((names[1], names[0]) if order == "parent child" else tuple(names))
    if not pairs:
        raise ValueError(f"{path} holds no pair of names.")
    return pairs


def _parents(hierarchy):
    parents: dict[str, list[str]] = {}
    for child, parent in hierarchy:
        parents.setdefault(child, []).append(parent)
    return parents


def _path_from_root(name, parents):
    """Names from the nearest root down to `name`."""
    came_from, level = {name: None}, [name]
    while level:
        for one in level:
            if one not in parents:
                path = [one]
                while came_from[path[-1]] is not None:
                    path.append(came_from[path[-1]])
                return path
        above = []
        for one in level:
            for parent in parents[one]:
                if parent not in came_from:
                    came_from[parent] = one
                    above.append(parent)
        level = above
    raise ValueError(f"The hierarchy has a cycle above {name!r}, and no root.")


def _nearest(name: str, parents: Mapping[str, list[str]], superclasses):
    level, seen = [name], set()
    while level:
        found = [group for group in superclasses if group in level]
        if found:
            return found[0]
        seen.update(level)
        above = dict.fromkeys(parent for child in level for parent in parents.get(child, ()))
        if name in above:
            raise ValueError(f"The hierarchy has a cycle through {name!r}.")
        level = [parent for parent in above if parent not in seen]
    return None
