"""Sets built from a local folder of ImageNet-21K: itself, and ImageNet-4K, for retrieval."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import re

from mrl_keras.checks import whole_number
from mrl_keras.data.tfds_sets import import_tfds
from mrl_keras.files import local_path

_SYNSET = re.compile(r"n\d{8}")
_ENDINGS = (".jpeg", ".jpg")


def imagenet_4k(source, data_dir=None, excluded=None, train=1000, query=50):
    """Builds the set and gives its TFDS builder; where it was built before, it is reused.

    The classes are those of ImageNet-21K outside ImageNet-1K with at least `train` + `query`
    images: 4,202 in the paper. Of each class, `train` images become the database and `query`
    others the queries. Which ones follows from their names alone (by SHA-256), so that the same
    folder always gives the same set; the authors' own choice is a list that they publish.

    Afterwards `tfds.load("imagenet4k", data_dir=data_dir)` and the recipes find it by name.

    Args:
        source: folder with one folder of JPEG files for each class: n01440764/, n01443537/, ...
        data_dir: where TFDS writes. Default None, TFDS_DATA_DIR or TFDS's default.
        excluded: synsets that are left out. Default None, the 1,000 of ImageNet-1K.
        train: int, images of each class in the split "train". Default 1000.
        query: int, images of each class in the split "query". Default 50.

    Returns:
        `tfds.core.DatasetBuilder` with the features "image", "label" and "file_name", prepared.

    Raises:
        ValueError: no such folder, one without class folders, no class with enough images, or a
            file that is not a JPEG.
        ImportError: tensorflow-datasets is missing.

    Source: arXiv 2205.13147, Section 4.3 and Appendix B (ImageNet-4K).
    """
    return _prepared("Imagenet4k", choose_images(source, excluded, train, query), data_dir)


def imagenet_21k(source, data_dir=None, least=500, query=50):
    """Builds ImageNet-21K without its rare classes, a stand-in for private sets such as JFT-300M.

    Of each class with at least `least` images, `query` images, chosen as by `imagenet_4k`, are
    held out, and all others train. Found by `tfds.load("imagenet21k", data_dir=data_dir)`.

    Args:
        source, data_dir: see `imagenet_4k`.
        least: int, images of a class. Default 500.
        query: int, held-out images of a class, below `least`; the split "query". Default 50.

    Returns, Raises:
        As `imagenet_4k`.

    Source: arXiv 2104.10972, Section 3.1 (which classes, how many are held out).
    """
    least = whole_number(least, "`least`", whole_number(query, "`query`") + 1)
    chosen = choose_images(source, (), least - query, query, surplus=True)
    return _prepared("Imagenet21k", chosen, data_dir)


def _prepared(name, chosen, data_dir):
    builder = _builder_class(name)(chosen=chosen, data_dir=data_dir)
    if builder.is_prepared():
        there = import_tfds().builder_from_directory(builder.data_dir).info
        sizes = {s: sum(len(c[s]) for c in chosen.values()) for s in ("train", "query")}
        if there.features["label"].names != list(chosen) or sizes != {
            name: split.num_examples for name, split in there.splits.items()
        }:
            raise ValueError(
                f"{builder.data_dir} holds {name} of other classes or sizes. Remove it, or "
                "give another `data_dir`."
            )
    builder.download_and_prepare()
    return builder


def choose_images(source, excluded=None, train=1000, query=50, surplus=False):
    """The paper's rule: which images of which classes.

    Args:
        source, excluded, train, query: see `imagenet_4k`.
        surplus: bool, whether a class's images beyond `train` + `query` train too. Default False.

    Returns:
        dict from the synsets, ascending, to {"train": paths, "query": paths}.
    """
    train, query = whole_number(train, "`train`"), whole_number(query, "`query`")
    # Local: it reads a few hundred thousand small files, which are copied faster all at once.
    source = pathlib.Path(local_path(source, "`source`"))
    if not source.is_dir():
        raise ValueError(
            f"There is no folder {source}. `source` must hold ImageNet-21K, a folder of JPEG files "
            "for each class."
        )
    folders = sorted(f for f in source.iterdir() if f.is_dir() and _SYNSET.fullmatch(f.name))
    if not folders:
        archives = len(list(source.glob("n*.tar")))
        hint = f" Unpack its {archives} archives, each into a folder." if archives else ""
        raise ValueError(f"{source} holds no class folders such as n01440764/.{hint}")
    left_out = set(imagenet_1k_synsets() if excluded is None else excluded)
    chosen, largest = {}, 0
    for folder in folders:
        if folder.name in left_out:
            continue
        images = [f for f in folder.iterdir() if f.suffix.lower() in _ENDINGS]
        largest = max(largest, len(images))
        if len(images) >= train + query:
            images.sort(key=lambda file: hashlib.sha256(_name(file).encode()).digest())
            chosen[folder.name] = {
                "train": images[:train],
                "query": images[train : train + query],
            }
            if surplus:
                chosen[folder.name]["train"] += images[train + query :]
    if not chosen:
        raise ValueError(
            f"No class of {source}{' outside ImageNet-1K' * (excluded is None)} has "
            f"{train + query} images or more; of {len(folders)} classes the largest has {largest}."
        )
    return chosen


def imagenet_1k_synsets():
    """The synsets of ImageNet-1K's classes, from TFDS's list."""
    tfds = import_tfds()
    path = tfds.core.tfds_path("image_classification/imagenet_resized_labels.txt")
    return tuple(path.read_text().split())


def _name(file):
    return f"{file.parent.name}/{file.name}"


def _checked_jpeg(file):
    with open(file, "rb") as opened:
        if opened.read(3) != b"\xff\xd8\xff":
            raise ValueError(f"Corrupt image: {file} is no JPEG file. Replace or remove it.")
    return str(file)


@functools.cache
def _builder_class(name):
    tfds = import_tfds()

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Classes of ImageNet-21K with many images."""

        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, *, chosen, **kwargs):
            self._chosen = chosen
            super().__init__(**kwargs)

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=list(self._chosen)),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=self.__doc__,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage="https://arxiv.org/abs/2205.13147",
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in ("train", "query")}

        def _generate_examples(self, split):
            for synset, files in self._chosen.items():
                for file in files[split]:
                    name = _name(file)
                    image = _checked_jpeg(file)
                    yield name, {"image": image, "label": synset, "file_name": name}

    return type(name, (Builder,), {"__doc__": Builder.__doc__}, skip_registration=True)
