"""Gradient accumulation and clipping: an update is made of four small batches."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X = torch.randn(1200, 10)
Y = (X[:, 0] + X[:, 1].abs() > 1).long()
PIECES = 4


def forever(loader):
    """Yield batches without end."""
    while True:
        yield from loader


def accuracy_and_loss(model, rows):
    """Evaluate a part of the data."""
    with torch.no_grad():
        scores = model(X[rows])
    loss = nn.functional.cross_entropy(scores, Y[rows])
    return (scores.argmax(1) == Y[rows]).float().mean(), loss


def train(trial):
    """Train a network."""
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    rows = TensorDataset(X[:1000], Y[:1000])
    batches = forever(DataLoader(rows, trial.batch_size // PIECES, shuffle=True))
    for step in range(trial.steps):
        trial.apply(optimizer, step)
        optimizer.zero_grad()
        total = 0.0
        for _ in range(PIECES):
            x, y = next(batches)
            loss = nn.functional.cross_entropy(model(x), y) / PIECES
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if trial.due(step):
            accuracy, held_out = accuracy_and_loss(model, slice(1000, 1100))
            trial.report(step, train_loss=total, held_out_loss=held_out, accuracy=accuracy)

    def test():
        accuracy, loss = accuracy_and_loss(model, slice(1100, 1200))
        return loss, accuracy

    return trial.result(test=test, model=model)
