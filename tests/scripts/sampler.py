"""Classes of unequal size, drawn equally often by a sampler; loader workers are not used."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

generator = torch.Generator().manual_seed(3)
X = torch.randn(1500, 5, generator=generator)
Y = (X.sum(1) > 3).long()  # one in ten
TRAIN, HELD_OUT, TEST = slice(0, 1000), slice(1000, 1250), slice(1250, 1500)


class Model(nn.Module):
    """Two layers with dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 24), nn.Linear(24, 2)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        """Return scores."""
        return self.second(self.dropout(torch.relu(self.first(x))))


def train(trial):
    """Train a network on balanced batches."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    weights = 1.0 / torch.bincount(Y[TRAIN])[Y[TRAIN]]
    own = torch.Generator().manual_seed(trial.seed)
    sampler = WeightedRandomSampler(weights, trial.steps * trial.batch_size, generator=own)
    loader = DataLoader(TensorDataset(X[TRAIN], Y[TRAIN]), trial.batch_size, sampler=sampler)

    def evaluated(rows):
        model.eval()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(
                model(X[rows]), Y[rows], weight=torch.tensor([1.0, 9.0])
            )
        model.train()
        return loss

    for step, (x, y) in enumerate(loader):
        trial.apply(optimizer, step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if trial.due(step):
            trial.report(step, train_loss=loss, held_out_loss=evaluated(HELD_OUT))
    return trial.result(test=lambda: evaluated(TEST))
