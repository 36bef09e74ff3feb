"""A training script as many are: the digits of scikit-learn, a small network, plain PyTorch."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

import orchestrator

data = load_digits()
x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
parts = torch.Generator().manual_seed(0)
training, validation, testing = random_split(TensorDataset(x, y), [1200, 300, 297], parts)


def batches(batch_size, steps):
    """Yield so many random batches, epoch after epoch."""
    loader = DataLoader(training, batch_size, shuffle=True)
    while steps > 0:
        yield from list(loader)[:steps]
        steps -= len(loader)


def mean_loss(model, part):
    """Return the cross-entropy on a part that is not trained on."""
    inputs, targets = part.dataset[part.indices]
    with torch.no_grad():
        return cross_entropy(model.eval()(inputs), targets).item()


def train(trial):
    """Train a network."""
    torch.manual_seed(trial.seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step, (inputs, targets) in enumerate(batches(trial.batch_size, trial.steps)):
        trial.apply(optimizer, step)
        loss = cross_entropy(model.train()(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if trial.due(step):
            trial.report(step, train_loss=loss, held_out_loss=mean_loss(model, validation))
    return trial.result(test=lambda: mean_loss(model, testing))


if __name__ == "__main__":
    orchestrator.tune(train, steps=1000, batch_size=64)
