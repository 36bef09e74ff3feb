"""How errors are shown."""

import pytest

from orchestrator.errors import LONGEST, one_line


@pytest.mark.parametrize(
    ("error", "plain", "named"),
    [
        (ValueError("a\n  b\tc "), "a b c", "ValueError: a b c"),
        (ValueError(), "ValueError", "ValueError"),
        (ValueError(" \n"), "ValueError", "ValueError"),
        (OSError(2, "gone", "x"), "[Errno 2] gone: 'x'", "FileNotFoundError: [Errno 2] gone: 'x'"),
        (ValueError("x" * 999), "x" * LONGEST, f"ValueError: {'x' * LONGEST}"),
    ],
)
def test_an_error_is_one_line(error: Exception, plain: str, named: str) -> None:
    """White space is one space, a long message is cut, an error without one is its type."""
    assert one_line(error) == plain
    assert one_line(error, named=True) == named
