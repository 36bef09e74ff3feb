"""An iterable data set without a length: examples are made as they are read."""

import random

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Sums(IterableDataset):
    """Four numbers and their noisy sum, without end."""

    def __init__(self, seed):
        self.seed = seed

    def __iter__(self):
        generator = random.Random(self.seed)
        while True:
            numbers = [generator.gauss(0, 1) for _ in range(4)]
            yield torch.tensor(numbers), torch.tensor([sum(numbers) + generator.gauss(0, 0.1)])


def fixed(seed, count=200):
    """Return so many examples that stay the same."""
    loader = iter(DataLoader(Sums(seed), count))
    return next(loader)


def train(trial):
    """Train a regression."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    held_out, sealed = fixed(-1), fixed(-2)
    loss_function = nn.MSELoss()

    @torch.no_grad()
    def evaluated(part):
        return loss_function(model(part[0]), part[1]).item()

    for step, (x, y) in enumerate(DataLoader(Sums(trial.seed), trial.batch_size)):
        if step == trial.steps:
            break
        trial.apply(optimizer, step)
        loss = loss_function(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if trial.due(step):
            trial.report(step, train_loss=loss.item(), held_out_loss=evaluated(held_out))
    return trial.result(test=lambda: evaluated(sealed))
