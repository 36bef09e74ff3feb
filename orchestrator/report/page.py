"""The page around a report: one file with all that it needs, which is allowed nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from string import Template

# The policy names the scripts by their hashes: whatever else got into the page would not run, and
# nothing may be fetched or sent.
PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src $hashes">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body><main>
$body
</main>
$scripts
</body>
</html>
""")


def page(title: str, body: str, *, figures: bool) -> str:
    """Return the page; `title` and `body` are HTML. plotly.js (1.2 MB) only comes with figures."""
    names = (*(("plotly-basic.min.js",) if figures else ()), "report.js")
    scripts = [_static(name) for name in names]
    return PAGE.substitute(
        title=title,
        body=body,
        style=_static("report.css"),
        hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _static(name: str) -> str:
    return (files(__package__) / "static" / name).read_text("utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
