"""Kernels that may be quantised to int8, adapted by LoRA, or both, as `keras.layers.Dense` has."""

import keras
from keras import ops

from mrl_keras.checks import whole_number


class AdaptableKernels:
    """A mixin for layers that multiply by one or several kernels (rows, units).

    It gives a layer the interface of `keras.layers.Dense`: `quantize("int8")`, the dtype policies
    "int8_from_...", `enable_lora`, and files that hold the kernels with what LoRA learned. The
    layer makes its weights by `_add_kernels`, then sets `biases`, and then calls `_end_build`.

    - int8: kernel q = round(s W), one scale s = 127 / max|W| for each unit. Inputs are quantised
      row by row in the same way, unless the `quantization_config` says otherwise.
    - LoRA: W + alpha / rank * A B with A (rows, rank) and B (rank, units); W is frozen.

    Args:
        lora_rank: int, or None for no LoRA. Default None.
        lora_alpha: float. Default None, `lora_rank`.
        quantization_config: `keras.quantizers.Int8QuantizationConfig`. Default None, Keras's.

    Source: LoRA arXiv 2106.09685, Section 4.1.
    """

    def __init__(self, lora_rank=None, lora_alpha=None, quantization_config=None, **kwargs):
        super().__init__(**kwargs)
        self.lora_rank = None if lora_rank is None else whole_number(lora_rank, "`lora_rank`")
        self.lora_alpha = self.lora_rank if lora_alpha is None else lora_alpha
        self.lora_enabled = False
        if isinstance(quantization_config, dict):
            quantization_config = keras.saving.deserialize_keras_object(quantization_config)
        self.quantization_config = quantization_config
        self._kernels, self._scales, self.biases = [], [], None

    def _add_kernels(self, names, shapes, make):
        """Adds a kernel for each name and shape; `make(name, shape)` adds one that is no int8."""
        if self.quantization_mode is not None:
            try:
                self._check_mode(self.quantization_mode)
            except NotImplementedError as error:
                raise ValueError(str(error)) from None
            self._add_int8(names, shapes)
        else:
            self._kernels = [make(*pair) for pair in zip(names, shapes, strict=True)]

    def _end_build(self):
        self.built = True
        if self.lora_rank is not None:
            self.enable_lora(self.lora_rank, self.lora_alpha)

    def _check_mode(self, mode):
        if mode != "int8":  # Keras's `Model.quantize` warns of this kind of error, and goes on
            raise NotImplementedError(
                f"{type(self).__name__} {self.name!r} is quantised to int8 only. Received the mode "
                f"{mode!r}: quantise the other layers by it, and this one by "
                '`layer.quantize("int8")`, or leave it as it is.'
            )

    def _add_int8(self, names, shapes):
        self._kernels, self._scales = [], []
        for name, (rows, units) in zip(names, shapes, strict=True):
            fixed = {"trainable": False}
            self._kernels.append(
                self.add_weight(
                    name=name, shape=(rows, units), initializer="zeros", dtype="int8", **fixed
                )
            )
            self._scales.append(
                self.add_weight(name=f"{name}_scale", shape=(units,), initializer="ones", **fixed)
            )
        self._is_quantized = True  # what Keras asks before it quantises

    def quantize(self, mode=None, type_check=True, config=None):
        """Makes the kernels int8, for good; `keras.Model.quantize` calls it.

        Args:
            mode: "int8".
            type_check: not read; for Keras's interface.
            config: `keras.quantizers.Int8QuantizationConfig`. Default None, Keras's.

        Raises:
            NotImplementedError: another mode.
        """
        self._check_mode(mode)
        old = list(self._kernels)
        values = [_quantizer(config)(kernel, to_numpy=True) for kernel in old]
        for kernel in old:
            self._untrack_variable(kernel)
        self.quantization_config = config
        self._add_int8([kernel.name for kernel in old], [kernel.shape for kernel in old])
        self._assign_int8(values)
        if self.quantization_mode is None:
            self.dtype_policy = keras.dtype_policies.get(f"int8_from_{self.dtype_policy.name}")

    def _assign_int8(self, values):
        for place, (kernel, scale) in enumerate(values):
            self._kernels[place].assign(kernel)
            self._scales[place].assign(ops.squeeze(scale, axis=0))

    def enable_lora(self, rank, lora_alpha=None, a_initializer="he_uniform", b_initializer="zeros"):
        """Freezes the kernels and trains a product of two thin matrices for each beside it.

        Args:
            rank: int, columns of A.
            lora_alpha: float; the product is scaled by lora_alpha / rank. Default None, `rank`.
            a_initializer, b_initializer: Keras initializers. Default "he_uniform" and "zeros".

        Raises:
            ValueError: the layer is not built, has LoRA already, or constrains its kernels.
        """
        if not self.built or self.lora_enabled or getattr(self, "kernel_constraint", None):
            raise ValueError(
                "`enable_lora` needs a built layer without LoRA and without `kernel_constraint`. "
                f"Received {self.name!r} with built={self.built}, lora_enabled="
                f"{self.lora_enabled}, kernel_constraint={self.kernel_constraint}."
            )
        self.lora_rank = whole_number(rank, "`rank`")
        self.lora_alpha = self.lora_rank if lora_alpha is None else lora_alpha
        self._tracker.unlock()
        for kernel in self._kernels:  # frozen also where `layer.trainable` is set later
            self._untrack_variable(kernel)
            kernel.trainable = False
            self._track_variable(kernel)

        def add(name, shape, initializer):
            initializer = keras.initializers.get(initializer)
            clone = getattr(initializer, "clone", lambda: initializer)
            options = {"initializer": clone(), "regularizer": self.kernel_regularizer}
            return self.add_weight(name=name, shape=shape, dtype="float32", **options)

        self._lora_a, self._lora_b = [], []
        for kernel in self._kernels:
            name, (rows, units) = kernel.name.replace("kernel", "lora_kernel"), kernel.shape
            self._lora_a.append(add(f"{name}_a", (rows, rank), a_initializer))
            self._lora_b.append(add(f"{name}_b", (rank, units), b_initializer))
        self._tracker.lock()
        self.lora_enabled = True

    @property
    def kernels(self):
        """The kernels as they act, one (rows, units) for each: dequantised, with LoRA's part."""
        if not (self._scales or self.lora_enabled):
            return self._kernels
        return [self._kernel(place, self.variable_dtype) for place in range(len(self._kernels))]

    def _kernel(self, place, dtype):
        kernel = ops.cast(self._kernels[place], dtype)
        if self._scales:
            kernel = ops.divide(kernel, ops.cast(self._scales[place], dtype))
        if self.lora_enabled:
            a, b = (ops.cast(x[place], dtype) for x in (self._lora_a, self._lora_b))
            kernel = ops.add(kernel, ops.multiply(ops.matmul(a, b), self._lora_factor))
        return kernel

    @property
    def _lora_factor(self):
        return self.lora_alpha / self.lora_rank

    def _times(self, x, place, start, stop):
        """x (..., stop - start) times the rows from `start` to `stop` of one kernel."""
        if not self._scales:
            return ops.matmul(x, self._kernel(place, self.compute_dtype)[start:stop])
        kernel = ops.convert_to_tensor(self._kernels[place])[start:stop]
        scale = ops.cast(ops.convert_to_tensor(self._scales[place]), self.compute_dtype)
        config = self.quantization_config
        default = keras.quantizers.AbsMaxQuantizer()
        quantizer = config.activation_quantizer if config is not None else default
        product = _int8_product(x, kernel, scale, quantizer)
        if self.lora_enabled:
            a, b = (ops.cast(w[place], x.dtype) for w in (self._lora_a, self._lora_b))
            adapted = ops.matmul(ops.matmul(x, a[start:stop]), b)
            product = ops.add(product, ops.multiply(adapted, self._lora_factor))
        return product

    def save_own_variables(self, store):
        kernels, scales = self._kernels, self._scales
        if self.lora_enabled:
            kernels = self.kernels
            if scales:
                values = [_quantizer(self.quantization_config)(x, to_numpy=True) for x in kernels]
                kernels = [kernel for kernel, _ in values]
                scales = [ops.squeeze(scale, axis=0) for _, scale in values]
        for place, value in enumerate([*kernels, *(self.biases or []), *scales]):
            store[str(place)] = value

    def load_own_variables(self, store):
        variables = [*self._kernels, *(self.biases or []), *self._scales]
        if len(store.keys()) != len(variables):
            raise ValueError(
                f"The layer {self.name!r} with dtype policy {self.dtype_policy.name!r} has "
                f"{len(variables)} kernels, biases and scales, and the file has "
                f"{len(store.keys())}: it is of another head, or of another dtype policy."
            )
        for place, variable in enumerate(variables):
            variable.assign(store[str(place)])
        for b in self._lora_b if self.lora_enabled else ():
            b.assign(ops.zeros(b.shape))  # what it learned is in the kernels

    def get_config(self):
        config = super().get_config()
        if self.lora_rank is not None:
            config |= {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}
        if self.quantization_config is not None:
            found = keras.saving.serialize_keras_object(self.quantization_config)
            config["quantization_config"] = found
        return config


def _quantizer(config):
    """The quantizer of kernels: that of the config, or a scale for each unit."""
    found = None if config is None else config.weight_quantizer
    return found or keras.quantizers.AbsMaxQuantizer(axis=0)


def _int8_product(x, kernel, scale, quantizer):
    """x times the kernel that int8 `kernel` and `scale` describe, in integers; x has a gradient.

    Args:
        x: tensor (..., rows).
        kernel: int8 tensor (rows, units).
        scale: tensor (units,), of the dtype of x.
        quantizer: a Keras quantizer of x, or None to leave x as it is.
    """

    @ops.custom_gradient
    def product(x):
        divisor, factor = scale, x
        if quantizer is not None:
            factor, row_scale = quantizer(x, axis=-1)
            divisor = ops.multiply(scale, row_scale)
        result = ops.divide(ops.cast(ops.matmul(factor, kernel), x.dtype), divisor)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            float_kernel = ops.divide(ops.cast(kernel, x.dtype), scale)
            return ops.matmul(upstream, ops.transpose(float_kernel))

        return result, gradient

    return product(x)
