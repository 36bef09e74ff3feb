"""Two networks against each other, each with its optimiser."""

import torch
from torch import nn


def real(count):
    """Return real examples: points of a circle."""
    angles = 6.28 * torch.rand(count)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def train(trial):
    """Train both in turn."""
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    makes = torch.optim.Adam(generator.parameters(), lr=1e-3)
    judges = torch.optim.Adam(critic.parameters(), lr=1e-3)
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(trial.batch_size, 1), torch.zeros(trial.batch_size, 1)
    for step in range(trial.steps):
        trial.apply(judges, step)
        fake = generator(torch.randn(trial.batch_size, 4))
        judged = criterion(critic(real(trial.batch_size)), ones)
        judged = judged + criterion(critic(fake.detach()), zeros)
        judges.zero_grad()
        judged.backward()
        judges.step()
        trial.apply(makes, step)
        fooled = criterion(critic(fake), ones)
        makes.zero_grad()
        fooled.backward()
        makes.step()
        if trial.due(step):
            trial.report(step, train_loss=judged, held_out_loss=fooled)
    return trial.result()
