"""Batches that are dicts, collated by a function of the user's; the model returns its loss."""

import random

import torch
from torch import nn
from torch.utils.data import DataLoader

COLOURS = ("red", "green", "blue")
draw = random.Random(0)
ROWS = [
    {"colour": draw.choice(COLOURS), "size": draw.random(), "weight": draw.random()}
    for _ in range(900)
]
for row in ROWS:
    row["price"] = (1 + COLOURS.index(row["colour"])) * row["size"] + 0.5 * row["weight"]


def collate(rows):
    """Return a dict of tensors."""
    return {
        "colour": torch.tensor([COLOURS.index(row["colour"]) for row in rows]),
        "numbers": torch.tensor([[row["size"], row["weight"]] for row in rows]),
        "labels": torch.tensor([row["price"] for row in rows]),
    }


class Model(nn.Module):
    """An embedding beside numbers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(COLOURS), 4)
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, colour, numbers, labels):
        """Return a dict with the loss, as many libraries' models do."""
        inputs = torch.cat([self.embedding(colour), numbers], dim=1)
        prices = self.layers(inputs).squeeze(-1)
        return {"loss": nn.functional.huber_loss(prices, labels), "prices": prices}


def train(trial):
    """Train the model."""
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(ROWS[:600], trial.batch_size, shuffle=True, collate_fn=collate)

    @torch.no_grad()
    def mean_loss(rows):
        return model(**collate(rows))["loss"]

    step = 0
    while step < trial.steps:
        for batch in loader:
            trial.apply(optimizer, step)
            loss = model(**batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if trial.due(step):
                trial.report(step, train_loss=loss, held_out_loss=mean_loss(ROWS[600:750]))
            step += 1
            if step == trial.steps:
                break
    return trial.result(test=lambda: mean_loss(ROWS[750:]), model=model)
