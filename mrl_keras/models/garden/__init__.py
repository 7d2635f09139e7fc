"""Model Garden's networks as Keras 3 layers."""
