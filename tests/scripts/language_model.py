"""A small causal transformer with tied weights and warm-up, on a file of the standard library."""

import sysconfig
from pathlib import Path

import torch
from torch import nn

TEXT = Path(sysconfig.get_path("stdlib"), "argparse.py").read_text("utf-8")
LETTERS = sorted(set(TEXT))
TOKENS = torch.tensor([LETTERS.index(letter) for letter in TEXT])
END = len(TOKENS) - 4000
LENGTH, WIDTH = 16, 24


class Model(nn.Module):
    """One block; the output layer is the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), WIDTH)
        self.position = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.block = nn.TransformerEncoderLayer(
            WIDTH, 2, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, len(LETTERS), bias=False)
        self.output.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens):
        """Return scores of the next letters."""
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        hidden = self.block(self.embedding(tokens) + self.position, src_mask=mask, is_causal=True)
        return self.output(self.norm(hidden))


def batch(starts):
    """Return inputs and the letters after them."""
    rows = starts[:, None] + torch.arange(LENGTH + 1)
    return TOKENS[rows[:, :-1]], TOKENS[rows[:, 1:]]


def train(trial):
    """Train the model."""
    model = Model()
    decaying = [p for p in model.parameters() if p.ndim > 1]  # the tied weight is there once
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decaying, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 20))

    def loss_of(starts):
        inputs, targets = batch(starts)
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def evaluated(begin):
        model.eval()
        loss = loss_of(torch.arange(begin, begin + 1900, 2 * LENGTH))
        model.train()
        return loss

    for step in range(trial.steps):
        trial.apply(optimizer, step)
        loss = loss_of(torch.randint(END - LENGTH, (trial.batch_size,)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
        if trial.due(step):
            trial.report(step, train_loss=loss, held_out_loss=evaluated(END))
    return trial.result(test=lambda: evaluated(END + 2000))
