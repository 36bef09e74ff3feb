"""Mixed precision: bfloat16 by autocast, weights in float32."""

import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
X = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
Y = torch.tensor(digits.target)


def net():
    """Return a small convolutional network with batch norm."""
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))


def loss_of(model, rows):
    """Return the mean loss of some rows, computed in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return nn.functional.cross_entropy(model(X[rows]), Y[rows])


def evaluated(model, rows):
    """Return the loss in evaluation mode, and go back to training."""
    model.eval()
    with torch.no_grad():
        loss = loss_of(model, rows)
    model.train()
    return loss


def train(trial):
    """Train a network."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(trial.steps):
        trial.apply(optimizer, step)
        loss = loss_of(model, torch.randint(1200, (trial.batch_size,)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if trial.due(step):
            held_out = evaluated(model, slice(1200, 1500))
            trial.report(step, train_loss=loss, held_out_loss=held_out)
    return trial.result(test=lambda: evaluated(model, slice(1500, None)))
