"""The digits of scikit-learn with Lightning and a learning rate that was looked for."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.tuner import Tuner
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


class Digits(pl.LightningDataModule):
    """1200 images to train on, 300 to validate, 297 to test."""

    def __init__(self, batch_size=64):
        super().__init__()
        self.batch_size = batch_size
        digits = load_digits()
        x = torch.tensor(digits.data, dtype=torch.float32) / 16
        y = torch.tensor(digits.target)
        self.parts = [TensorDataset(x[s], y[s]) for s in (slice(1200), slice(1200, 1500))]

    def train_dataloader(self):
        """Return the training examples."""
        return DataLoader(self.parts[0], self.batch_size, shuffle=True)

    def val_dataloader(self):
        """Return those that choices are made on."""
        return DataLoader(self.parts[1], 300)


class Net(pl.LightningModule):
    """A small network."""

    def __init__(self, lr=1e-3):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        """Return the loss of a batch."""
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        """Log the loss of a batch."""
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        """Return the optimiser."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


if __name__ == "__main__":
    trainer = pl.Trainer(max_epochs=5, logger=False, enable_checkpointing=False)
    model, data = Net(), Digits()
    found = Tuner(trainer).lr_find(model, datamodule=data)
    model.lr = found.suggestion()
    trainer.fit(model, data)
