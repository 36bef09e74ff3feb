"""A small causal language model, trained by Hugging Face's Trainer on a file of Python's."""

import sysconfig
from pathlib import Path

import torch
import transformers

from orchestrator.transformers import lr_find

TEXT = Path(sysconfig.get_path("stdlib"), "argparse.py").read_bytes()
LENGTH = 64


def pieces(part):
    """Return pieces of the text, tokens are its bytes."""
    rows = torch.tensor(list(TEXT[: len(TEXT) // LENGTH * LENGTH])).view(-1, LENGTH)[part]
    return [{"input_ids": row, "labels": row} for row in rows]


def make_trainer(**options):
    """Return the Trainer and its model, made anew."""
    shape = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 64, "n_layer": 2, "n_head": 4}
    config = transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0)
    arguments = transformers.TrainingArguments(
        output_dir="out", max_steps=200, report_to=[], save_strategy="no", **options
    )
    return transformers.Trainer(
        transformers.GPT2LMHeadModel(config),
        arguments,
        train_dataset=pieces(slice(1000)),
        eval_dataset=pieces(slice(1000, 1200)),
    )


if __name__ == "__main__":
    trainer = make_trainer()
    trainer.args.learning_rate = lr_find(trainer).max_lr
    trainer.train()
    print(trainer.evaluate()["eval_loss"])
