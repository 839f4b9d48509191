"""Run the code of the pages and write what it prints below it, so that no number of the documentation is typed by hand.

``python docs/run_pages.py`` does it for all pages, ``python docs/run_pages.py docs/guide/logs.rst`` for some.  An error other
than those of the library stops it; ``tests/test_docs.py`` checks that the pages are up to date.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import sys
import tempfile
import textwrap
import traceback
import warnings
from pathlib import Path

from defer.exceptions import DeferError

FOLDER = Path(__file__).resolve().parent
# Longer lines of output are wrapped; the comparison in the test treats all white space alike.
WIDTH = 98


def main() -> None:
    """Run the pages named on the command line, or all that hold code."""
    named = [Path(argument).resolve() for argument in sys.argv[1:]]
    for page in named or [*FOLDER.glob("*.rst"), *FOLDER.glob("guide/*.rst"), *FOLDER.glob("pitfalls/*.rst")]:
        text = page.read_text(encoding="utf-8")
        if ">>> " not in text:
            continue
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = with_outputs(text, page)
        if written != text:
            page.write_text(written, encoding="utf-8")
        sys.stdout.write(f"{'changed' if written != text else 'as before'}: {os.path.relpath(page)}\n")


def with_outputs(text: str, page: Path) -> str:
    """The text of a page with the output of every example replaced by what it prints now."""
    names: dict[str, object] = {"__name__": "__main__"}
    lines, edits = text.splitlines(keepends=True), []
    for example in doctest.DocTestParser().get_examples(text, str(page)):
        shown = [f"{' ' * example.indent}{line}\n" for line in printed(example, names, page)]
        first = example.lineno + example.source.count("\n")
        edits.append((first, first + example.want.count("\n"), shown))
    for first, last, shown in reversed(edits):
        lines[first:last] = shown
    return "".join(lines)


def printed(example: doctest.Example, names: dict[str, object], page: Path) -> list[str]:
    """Lines that an example prints, or the last line of the error of ours that it raises."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(compile(example.source, f"<{page.name}, line {example.lineno + 1}>", "single"), names)
            text = output.getvalue()
        except DeferError as error:
            text = "Traceback (most recent call last):\n    ...\n" + traceback.format_exception_only(error)[-1]
    lines = []
    for line in text.splitlines():
        wrapped = textwrap.wrap(
            line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        lines += [line] if len(line) <= WIDTH and line.strip() else wrapped or ["<BLANKLINE>"]
    return lines


if __name__ == "__main__":
    main()
