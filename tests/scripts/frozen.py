"""Fine-tuning: a frozen stem, a block at a tenth of the rate, a new head; norms do not decay."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
X = torch.tensor(digits.data, dtype=torch.float32) / 16
Y = torch.tensor(digits.target)
OLD, NEW = Y < 5, Y >= 5


def pretrained():
    """Return a stem and a block that have learnt the first five digits."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Linear(64, 48), nn.LayerNorm(48), nn.ReLU())
    block = nn.Sequential(nn.Linear(48, 32), nn.LayerNorm(32), nn.ReLU())
    model = nn.Sequential(stem, block, nn.Linear(32, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[OLD]), Y[OLD]).backward()
        optimizer.step()
    return stem, block


STEM, BLOCK = pretrained()
x, y = X[NEW], Y[NEW] - 5


def train(trial):
    """Fine-tune to the other five digits."""
    stem, block = copy.deepcopy((STEM, BLOCK))
    torch.manual_seed(trial.seed)
    head = nn.Linear(32, 5)
    model = nn.Sequential(stem.requires_grad_(False), block, head)
    norms = [*block[1].parameters(), block[0].bias, head.bias]
    optimizer = torch.optim.AdamW(
        [
            {"params": [head.weight], "lr": 1e-2, "weight_decay": 0.05},
            {"params": [block[0].weight], "lr": 1e-3, "weight_decay": 0.05},
            {"params": norms, "lr": 1e-2, "weight_decay": 0.0},
        ]
    )

    @torch.no_grad()
    def evaluated(rows):
        return nn.functional.cross_entropy(model(x[rows]), y[rows])

    for step in range(trial.steps):
        trial.apply(optimizer, step)
        rows = torch.randint(500, (trial.batch_size,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if trial.due(step):
            trial.report(step, train_loss=loss, held_out_loss=evaluated(slice(500, 700)))
    return trial.result(test=lambda: evaluated(slice(700, None)), model=model)
