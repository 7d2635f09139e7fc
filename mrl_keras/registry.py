"""Registration of public classes with Keras, so that saved models load without custom objects."""

import keras

register = keras.saving.register_keras_serializable(package="mrl_keras")
