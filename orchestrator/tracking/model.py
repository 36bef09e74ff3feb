"""Writes the trained network as an MLflow model, which MLflow loads and serves without our code.

It is a torch.export program, not a pickle; MLflow checks this before it loads a model. The folder
is written in MLflow's documented format: `mlflow.pytorch.save_model` would trace the network in the
tracking thread, and import torch there.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

ENVIRONMENT = """\
python: {python}
build_dependencies: []
dependencies:
- -r requirements.txt
"""


def write(served: Mapping[str, Any], folder: Path) -> None:
    """Write the model to `folder`. `served`: see `study.model_files.served`."""
    (folder / "data").mkdir(parents=True)
    shutil.copyfile(served["file"], folder / "data" / "model.pt2")
    python = platform.python_version()
    about = {
        "flavors": {
            "python_function": {
                "loader_module": "mlflow.pytorch",
                "data": "data",
                "config": {"device": None},
                "env": {"virtualenv": "python_env.yaml"},
                "python_version": python,
            },
            "pytorch": {"model_data": "data", "pytorch_version": version("torch"), "code": None},
        },
        "mlflow_version": version("mlflow"),
        "signature": {
            "inputs": _tensor(served["input_shape"], served["input_type"]),
            "outputs": _tensor(served["output_shape"]),
            "params": None,
        },
        "utc_time_created": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime()),
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(about, sort_keys=False))
    needs = "".join(f"{name}=={version(name)}\n" for name in ("mlflow", "torch", "numpy"))
    (folder / "requirements.txt").write_text(needs)
    (folder / "python_env.yaml").write_text(ENVIRONMENT.format(python=python))


def _tensor(shape: Sequence[int], dtype: str = "float32") -> str:
    """Return a schema of any number of examples of this shape."""
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}])
