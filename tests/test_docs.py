"""The pages for people: what they say is what the program does."""

import importlib.util
from pathlib import Path

import pytest

from orchestrator import config
from orchestrator.options import options_of
from orchestrator.stages import STAGES

ROOT = Path(__file__).parent.parent


def _generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_the_config_is_what_the_schema_says() -> None:
    """docs/config.md is as `make docs` writes it."""
    assert (ROOT / "docs/config.md").read_text("utf-8") == _generator().page()


@pytest.mark.parametrize("key", ["", *config.SECTIONS, *STAGES])
def test_every_setting_has_a_meaning(key: str) -> None:
    """A line of text for each key, where it is declared."""
    if key in STAGES:
        models = [options_of(STAGES[key], "kind")]
    elif variants := config._variants(key):
        models = [made() for made in variants.values()]
    else:
        models = [config.SECTIONS.get(key, config.Config)]
    for model in models:
        missing = [name for name, (_, meaning) in _generator().fields(model) if not meaning]
        assert not missing, model
