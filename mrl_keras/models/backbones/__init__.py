"""Image backbones in plain Keras, and any backbone by name."""
