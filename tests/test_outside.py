"""Whole studies of networks and data that are not ours, as their users run them."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
RESNET = "_target_: outside.resnet18\n"
MODULE = """\
from torch import nn
from torchvision.models import resnet18 as theirs


def resnet18(num_classes):
    net = theirs(num_classes=num_classes)
    net.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    return net
"""


def study(where: Path, *arguments: str) -> dict[str, Any]:
    """Run a study in `where` as its user does, return its summary."""
    ours = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "orchestrator", *arguments, "tracking=none", "study_name=x"]
    done = subprocess.run(
        command,
        cwd=where,
        env=os.environ | {"PYTHONPATH": ours},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    summary: dict[str, Any] = json.loads((where / "runs/x/summary.json").read_text())
    assert summary["status"] == "complete"
    return summary


def example(name: str, here: Path) -> Path:
    """Return a copy of an example's folder."""
    return Path(shutil.copytree(EXAMPLES / name, here / name))


def with_model(here: Path, text: str) -> Path:
    """Return a folder with a network of the user's in its conf."""
    (here / "conf/model").mkdir(parents=True)
    (here / "conf/model/mine.yaml").write_text(text)
    (here / "outside.py").write_text(MODULE)
    return here


@pytest.mark.slow
def test_a_regression_without_accuracy(here: Path) -> None:
    """scikit-learn's diabetes: every stage decides by loss alone, which falls far below chance."""
    summary = study(example("diabetes", here), "+study=diabetes")
    assert summary["final"]["metric"]["name"] is None
    assert summary["final"]["test_metric"]["mean"] is None
    assert 0.4 < summary["final"]["test_loss"]["mean"] < 0.7  # least squares: 0.5
    assert summary["recipe"]["optimizer"] == "sgd"
    assert 1e-3 < summary["recipe"]["max_lr"] < 0.1
    report = (here / "diabetes/runs/x/report.html").read_text()
    words = re.sub("<(script|style).*?</\\1>", "", report, flags=re.DOTALL)  # plotly.js has some
    assert "accuracy" not in words.lower()


@pytest.mark.slow
def test_a_transformer_on_text(here: Path) -> None:
    """The next character of the standard library: tokens in, a score row per token out."""
    summary = study(example("stdlib", here), "+study=stdlib")
    assert summary["recipe"]["optimizer"] == "adamw"
    assert 1e-3 < summary["recipe"]["max_lr"] < 0.1
    assert summary["final"]["test_loss"]["mean"] < 2.6 < math.log(96)  # nats; 3.1 by frequency
    assert summary["final"]["test_metric"]["mean"] > 0.3


@pytest.mark.slow
def test_a_vision_transformer_with_adamw(here: Path) -> None:
    """timm's, on the digits: slow to begin, it gets a rate at which it learns."""
    text = "_target_: timm.models.vision_transformer.VisionTransformer\n"
    text += "img_size: 8\npatch_size: 2\nin_chans: 1\nembed_dim: 32\ndepth: 4\nnum_heads: 2\n"
    options = ("+study=digits", "model=mine", "optimizer=adamw", "plan=[lr_range,final]")
    summary = study(with_model(here, text), *options, "stages.final.seeds=2")
    assert 5e-4 < summary["recipe"]["max_lr"] < 8e-3  # best: .002 to .004
    assert summary["final"]["test_metric"]["mean"] > 0.6


@pytest.mark.slow
def test_torchvisions_resnet18(here: Path) -> None:
    """With batch norm, SGD, on the digits."""
    options = ("recipe.batch_size=32", "stages.final.epochs=2", "data.train_examples=600")
    more = ("stages.final.seeds=2", "stages.lr_range.min_steps=40", "plan=[lr_range,final]")
    summary = study(with_model(here, RESNET), "model=mine", *options, *more)
    assert summary["final"]["test_metric"]["mean"] > 0.9


@pytest.mark.slow
def test_a_network_of_timm(here: Path) -> None:
    """Named by its function and arguments alone; the study finds a rate at which it learns."""
    text = "_target_: timm.create_model\nmodel_name: test_resnet\nin_chans: 1\nnum_classes: 10\n"
    summary = study(with_model(here, text), "+study=digits", "model=mine")
    assert 0.05 < summary["recipe"]["max_lr"] < 2
    assert summary["final"]["test_metric"]["mean"] > 0.93
