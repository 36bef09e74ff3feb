"""Sequences of unequal length, padded in each batch, through a packed GRU."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

generator = torch.Generator().manual_seed(0)
SEQUENCES = [
    torch.randint(1, 6, (int(torch.randint(3, 10, (), generator=generator)),), generator=generator)
    for _ in range(700)
]
EXAMPLES = [(s, int(s[0] == s[-1])) for s in SEQUENCES]  # same at both ends?


def collate(batch):
    """Pad to the longest, keep the lengths."""
    tokens, labels = zip(*batch, strict=True)
    lengths = torch.tensor([len(t) for t in tokens])
    return pad_sequence(list(tokens), batch_first=True), lengths, torch.tensor(labels)


class Reader(nn.Module):
    """An embedding, a GRU, and a layer on its last state."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 8, padding_idx=0)
        self.gru = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens, lengths):
        """Return scores."""
        packed = pack_padded_sequence(
            self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False
        )
        _, state = self.gru(packed)
        return self.head(state[-1])


def train(trial):
    """Train the reader."""
    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)  # left in: it plays no part
    criterion = nn.CrossEntropyLoss()
    order = torch.Generator().manual_seed(trial.seed)

    def batches():
        while True:
            yield from DataLoader(
                EXAMPLES[:500], trial.batch_size, shuffle=True, collate_fn=collate, generator=order
            )

    @torch.no_grad()
    def evaluated(part):
        tokens, lengths, labels = collate(part)
        return criterion(model(tokens, lengths), labels).item()

    for step, (tokens, lengths, labels) in zip(range(trial.steps), batches(), strict=False):
        trial.apply(optimizer, step)
        loss = criterion(model(tokens, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if trial.due(step):
            trial.report(step, train_loss=loss, held_out_loss=evaluated(EXAMPLES[500:600]))
    return trial.result(test=lambda: evaluated(EXAMPLES[600:]))
