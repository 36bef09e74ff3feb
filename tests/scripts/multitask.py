"""Two tasks on one trunk: a class and a number, their losses summed with weights."""

import numpy as np
import torch
from sklearn.datasets import load_wine
from torch import nn

wine = load_wine()
X = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0), dtype=torch.float32)
CLASSES, COLOUR = torch.tensor(wine.target), X[:, 9].clone()
X[:, 9] = 0  # it is to be predicted
ORDER = np.random.default_rng(0).permutation(len(X))
TRAIN, HELD_OUT, TEST = ORDER[:110], ORDER[110:144], ORDER[144:]


class TwoHeads(nn.Module):
    """A trunk with a head for each task."""

    def __init__(self, width):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(13, width), nn.ReLU())
        self.kind, self.colour = nn.Linear(width, 3), nn.Linear(width, 1)

    def forward(self, x):
        """Return both."""
        hidden = self.trunk(x)
        return self.kind(hidden), self.colour(hidden).squeeze(-1)


def total_loss(model, rows):
    """Return the weighted sum of both losses."""
    kinds, colours = model(X[rows])
    first = nn.functional.cross_entropy(kinds, CLASSES[rows])
    second = nn.functional.mse_loss(colours, COLOUR[rows])
    return first + 0.5 * second


def train(trial, width=24):
    """Train both tasks; the data order is NumPy's, by its global state."""
    model = TwoHeads(width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(trial.steps):
        trial.apply(optimizer, step)
        rows = np.random.choice(TRAIN, trial.batch_size)  # noqa: NPY002
        loss = total_loss(model, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if trial.due(step):
            with torch.no_grad():
                trial.report(step, train_loss=loss, held_out_loss=total_loss(model, HELD_OUT))
    with torch.no_grad():
        return trial.result(test=lambda: total_loss(model, TEST))
