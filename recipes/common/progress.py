"""Progress bars of trainings."""

import keras
from tqdm.auto import tqdm


class EpochBar(keras.callbacks.Callback):
    """One progress bar for a whole `fit`, with the validation accuracy at the ends of M.

    Args:
        name: str, before the bar.
        dims: `NestingDims` of the model, whose metrics are named "top1_dDIM".
    """

    def __init__(self, name, dims):
        super().__init__()
        self.name, self.dims = name, dims

    def on_train_begin(self, logs=None):
        self.bar = tqdm(total=self.params["epochs"], desc=f"{self.name:6}", unit="epoch")

    def on_epoch_end(self, epoch, logs=None):
        shown = {f"top-1@{dim}": logs[f"val_top1_d{dim}"] for dim in (self.dims[0], self.dims[-1])}
        self.bar.set_postfix({key: f"{value:.3f}" for key, value in shown.items()})
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()
