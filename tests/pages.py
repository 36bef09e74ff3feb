"""README.md and docs/*.md as things to do: their code blocks, in order.

| block | what a test does with it |
| --- | --- |
| `sh` | runs each line; one that ends in a backslash goes on |
| `console` | runs what follows `$ `; the lines below it must be in the output |
| `python`, `yaml`, `toml` | written to the file that its first comment names, as in `# mynet.py` |
| `python` without a name | all of a page are one script, run after the last of them |
| `pycon` | is an example of a docstring, which tests/test_api.py runs |
| `text` | is not run |
| `diff` | must be that of before.py and after.py in the folder of examples that the page links |

A comment in the line above says why a block is not run, `<!-- not run: installs packages -->`, or
that it takes long, `<!-- slow -->` (`<!-- slow: uses ... -->`: and needs what came before it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = ("sh", "console", "python", "yaml", "toml", "pycon", "text", "diff")
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>.*?) -->\n)?^```(?P<info>.*)\n(?P<text>(?:.*\n)*?)```$", re.M
)
_FILE = re.compile(r"(?:# @package \S+\n)?# (\S+\.(?:py|yaml|toml))(?:: .*)?\n")


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the page says of running it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}, line {self.line}"

    @property
    def slow(self) -> bool:
        """Whether it takes long, or needs a block that does."""
        return self.mark.startswith("slow")

    @property
    def file(self) -> str | None:
        """The file that the page tells the reader to write."""
        named = _FILE.match(self.text)
        return named[1] if named and self.language in ("python", "yaml", "toml") else None

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command, and the lines of output that the page shows."""
        if self.language == "sh":
            lines = self.text.replace("\\\n", " ").splitlines()
            return [(line, []) for line in lines if line.strip() and not line.startswith("#")]
        if self.language != "console":
            return []
        parts = re.split(r"^\$ ", self.text, flags=re.M)[1:]
        return [(head, rest) for head, *rest in (part.splitlines() for part in parts)]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("info")) + 1,
            found["info"],
            found["text"],
            found["mark"] or "",
        )
        for found in _BLOCK.finditer(text)
    ]


def links(page: Path) -> list[str]:
    """Return the addresses of all links and images of a page."""
    prose = _BLOCK.sub("", page.read_text("utf-8"))
    return re.findall(r"\]\(([^)\s]+)\)", prose)
