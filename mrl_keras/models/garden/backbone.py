"""The base of Model Garden's networks (tf-models-official, of tf_keras layers) as Keras layers.

Keras 3 does not see the weights of a tf_keras network, and would silently leave them untrained.
`GardenBackbone` builds the network and wraps each of its variables in a `keras.Variable`.
"""

import abc
import contextlib
import dataclasses
import os

import keras

from mrl_keras.checks import checked_number, whole_number
from mrl_keras.lazy_tensorflow import require_backend
from mrl_keras.models.garden.checkpoint import restore
from mrl_keras.variables import number_from_zero

PIP = "pip install mrl_keras[models]"
POLICIES = ("float32", "float64", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16")


class GardenBackbone(keras.layers.Layer, abc.ABC):
    """A tf_keras network as a Keras layer; the base of `GardenResNet`, `GardenViT`, `GardenBert`.

    Training, dtype policies, freezing, `jit_compile`, `.keras` files, SavedModels and
    `tf.train.Checkpoint` work as for any layer. The network is made at once, not at the first
    call: construct the layer in the scope of the `tf.distribute` strategy. After a change of
    `frozen` or `trainable`, call `compile` again, as always in Keras.

    A subclass takes its sizes as constructor arguments and the rest as keywords, which
    `split_options` puts into a frozen dataclass; it ends its constructor with
    `self._adopt(frozen)`.

    Args:
        options: a frozen dataclass, whose fields become attributes and entries of the config.
        l2: float, the factor of the sum of squares of each kernel, as a regularisation loss.
            Default 0.0.
        frozen: names of stages that are not trained, of `stages`: neither the weights nor the
            moving statistics of batch normalisation change. May be set at any time. Default
            ().
        **kwargs: `name`, `dtype`, `trainable`.

    Raises:
        ImportError: tf-models-official is not installed.
        ValueError: another Keras backend than TensorFlow, an unknown stage in `frozen`, or a
            `dtype` other than float32, float64, bfloat16, float16, mixed_bfloat16 and
            mixed_float16.
    """

    def __init__(self, options, l2=0.0, **kwargs):
        super().__init__(**kwargs)
        self.l2 = checked_number(l2, "`l2`", least=0.0)
        self._options = options
        for name, value in dataclasses.asdict(options).items():
            setattr(self, name, value)

    @abc.abstractmethod
    def _build_network(self):
        """(network, forward): the network of Model Garden, and what of it `call` runs.

        Both are tf_keras models. `forward` holds the weights that matter to its outputs, and
        `network` is the shape of Model Garden's checkpoints.
        """

    @abc.abstractmethod
    def _stage_layers(self):
        """A dict from the names of the stages, input first, to their tf_keras layers."""

    def _adopt(self, frozen):
        tf = import_official()
        if self.dtype_policy.name not in POLICIES:
            raise ValueError(
                f"`dtype` must be one of {', '.join(POLICIES)}. "
                f"Received {self.dtype_policy.name!r}."
            )
        with _tf_keras_policy(self.dtype_policy.name):
            network, forward = self._build_network()
        # Keras and TensorFlow must not track the tf_keras models themselves: an export would
        # trace each of their layers.
        self._hidden = _Hidden(network=network, forward=forward)
        regularized = _regularized(network)
        # Before any freezing: the order of the variables is the format of the weights file, and
        # the network's own, whichever outputs it has.
        reached = {v.ref() for v in forward.variables}
        variables = [v for v in network.variables if v.ref() in reached]
        pairs = [
            (v, self._wrapped(v, name, v.ref() in regularized))
            for v, name in zip(variables, _names_of(variables), strict=True)
        ]
        self._hidden.pairs = pairs
        self.adopted = [wrapped for _, wrapped in pairs]
        self.checkpointed = tf.Module()  # what tf.train.Checkpoint sees; it knows no keras.Variable
        self.checkpointed.variables_of_network = [v for v, _ in pairs]
        self.built = True
        self.frozen = frozen

    def _wrapped(self, variable, name, regularized):
        wrapped = keras.Variable(
            variable,
            dtype=variable.dtype.name,
            trainable=variable.trainable,
            autocast=False,  # tf_keras casts
            name=name,
        )
        if regularized and self.l2:
            wrapped.regularizer = keras.regularizers.L2(self.l2)
        return wrapped

    @property
    def network(self):
        """The tf_keras model of Model Garden, which shares its variables with this layer."""
        return self._hidden.network

    @property
    def stages(self):
        """Names of the parts that can be frozen, input first: a tuple of str."""
        return tuple(self._stage_layers())

    @property
    def frozen(self):
        """Names of the stages that are not trained; may be set."""
        return self._frozen

    @frozen.setter
    def frozen(self, names):
        names = (names,) if isinstance(names, str) else tuple(names)
        unknown = sorted(set(names) - set(self.stages))
        if unknown:
            raise ValueError(
                f"`frozen` must be names of {', '.join(self.stages)}. Received unknown {unknown}."
            )
        self._frozen = names
        self._apply_freeze()

    @property
    def trainable(self):
        """bool, whether the stages outside `frozen` are trained; may be set."""
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        self._trainable = bool(value)
        self._apply_freeze()

    def _apply_freeze(self):
        # The flags of tf_keras decide which batch normalisations update their statistics;
        # those of Keras which variables are trained.
        stages = self._stage_layers()
        for model in (self._hidden.network, self._hidden.forward):
            model.trainable = self._trainable
        for name in self._frozen:
            for layer in stages[name]:
                layer.trainable = False
        live = {v.ref() for v in self._hidden.forward.trainable_variables}
        for variable, wrapped in self._hidden.pairs:
            wrapped.trainable = variable.ref() in live

    def _adopted_variable(self, variable):
        return next(wrapped for v, wrapped in self._hidden.pairs if v is variable)

    def stage_layers(self, name):
        """The tf_keras layers of the stage `name`, in order."""
        stages = self._stage_layers()
        if name not in stages:
            raise ValueError(f"`name` must be one of {', '.join(stages)}. Received {name!r}.")
        return list(stages[name])

    def stage_variables(self, name):
        """The `keras.Variable`s of the stage `name`, moving statistics included."""
        inside = {v.ref() for layer in self.stage_layers(name) for v in layer.variables}
        return [wrapped for v, wrapped in self._hidden.pairs if v.ref() in inside]

    def load_checkpoint(self, path):
        """Read the weights of a Model Garden checkpoint, of all stages.

        The checkpoint may hold the network as `backbone`, `encoder`, below `model`, or at its
        root; the rest, such as heads and optimizers, is left aside.

        Args:
            path: the prefix of the checkpoint's files, or a folder, of which the latest
                checkpoint is read.

        Raises:
            ValueError: no checkpoint there, or it is of another network. The weights are then
                what they were.
        """
        restore(self.network, os.fspath(path))

    def call(self, inputs, training=None):
        return self._hidden.forward(inputs, training=bool(training))

    def compute_output_spec(self, inputs, training=None):
        tree = keras.tree.map_structure
        shapes = self.compute_output_shape(tree(lambda x: tuple(x.shape), inputs))
        outputs = self._hidden.forward.output
        types = tree(lambda x: x.dtype.name, outputs)
        if not isinstance(types, dict):
            return keras.KerasTensor(shapes, dtype=types)
        return {k: keras.KerasTensor(shapes[k], dtype=types[k]) for k in types}

    def get_config(self):
        own = {"l2": self.l2, "frozen": list(self.frozen)}
        return {**super().get_config(), **own, **dataclasses.asdict(self._options)}


class _Hidden:
    """Attributes that neither Keras nor TensorFlow tracks."""

    def __init__(self, **values):
        self.__dict__.update(values)


def import_official():
    """TensorFlow, after a check that Model Garden can be used."""
    require_backend("A network of Model Garden")
    try:
        import official.modeling  # noqa: F401
        import tf_keras  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Model Garden networks need tf-models-official: {PIP}") from error
    import tensorflow

    return tensorflow


@contextlib.contextmanager
def _tf_keras_policy(name):
    """tf_keras' own global dtype policy, for the time that a network is built."""
    import tf_keras

    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(before)


def _names_of(variables):
    """Names with dots, without the numbers by which tf_keras counts all layers of a process."""
    split = [variable.name.split(":")[0].partition("/") for variable in variables]
    first = number_from_zero([layer for layer, _, _ in split])
    return [
        f"{layer}.{rest}".replace("/", ".")
        for layer, (_, _, rest) in zip(first, split, strict=True)
    ]


def _regularized(network):
    """References of the kernels that `network` regularises."""
    layers = (m for m in network.submodules if getattr(m, "kernel_regularizer", None) is not None)
    return {layer.kernel.ref() for layer in layers if hasattr(getattr(layer, "kernel", 0), "ref")}


def split_options(options, keywords):
    """(`options` made of its own `keywords`, the other keywords); `options` is a dataclass."""
    names = {field.name for field in dataclasses.fields(options)}
    own = {name: value for name, value in keywords.items() if name in names}
    return options(**own), {name: v for name, v in keywords.items() if name not in names}


def check_layers(numbers, num_layers):
    """Raise a ValueError unless `numbers` are ascending ints from 1 to `num_layers`."""
    found = [whole_number(number, "Each of `output_layers`") for number in numbers]
    if found != sorted(set(found)) or max(found, default=0) > num_layers:
        raise ValueError(
            f"`output_layers` must be ascending numbers of blocks, from 1 to {num_layers}. "
            f"Received {list(numbers)}."
        )


def layer_name(number):
    """The name of the output after block `number`, counted from 1."""
    return f"layer{number}"


def fraction(value, what):
    """`value` as a float in [0, 1), such as a dropout rate; `what` names it in the error."""
    number = checked_number(value, what, least=0.0)
    if number >= 1:
        raise ValueError(f"{what} must be below 1. Received {value!r}.")
    return number
