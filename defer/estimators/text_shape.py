"""The shape of texts as a few cheap numbers, without words of any language: how long, how numerical, how much like code.

What a query looks like says something of how hard it is before any model has read it; its length alone ranks the gain of
a strong arm on word problems clearly better than chance.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from defer.estimators.queries import read_texts
from defer.exceptions import RouterInputError

__all__ = ["TextShape"]

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

_CHARACTERS_AT_ONCE = 250_000
_SPACE, _DIGIT, _UPPER, _LOWER, _PUNCTUATION, _MATHS, _FOREIGN = (1 << bit for bit in range(7))
# Signs that are looked for one kind at a time; a sign may be of several kinds.
_SIGNS = {
    name: (1 << 7 + place, signs)
    for place, (name, signs) in enumerate({
        "line end": "\n\r", "blank": " ", "tab": "\t", "joins digits": ".,'", "opens": "(", "marks an option": ".):",
        "ends a sentence": ".!?؟।", "ends one without space": "。！？", "question": "?？؟;՞", "comma": ",，،、", "full stop": ".。।", "brace": "{}[]<>",
        "code": ";=_#|&@~", "backslash": "\\", "dollar": "$", "quote": "\"'`“”‘’«»„‹›「」『』",
    }.items())
}  # fmt: skip


class TextShape(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Numbers of a text that do not hang on its language.

    Parameters
    ----------
    standardize : bool, default=True
        Bring every number to mean 0 and standard deviation 1 over the texts of `fit`, after clipping it to the range that
        it had there: a text unlike all of them counts as the most extreme one seen.
    scale : float, default=1.0
        Factor of all numbers: their weight beside other features.

    Attributes
    ----------
    mean_, deviation_, low_, high_ : arrays of shape (d,)
        Of the texts of `fit`; a number that is the same for all of them has deviation 1.

    Raises
    ------
    RouterInputError
        If queries are not text, there are none, or a parameter is none of these.

    Notes
    -----
    Counts enter as log(1 + count), shares as they are.  The numbers: ``characters``, ``words`` (runs without white space),
    ``lines`` (that are not empty), ``word_length`` (characters that are not white space a word), ``longest_word``,
    ``sentence_length`` (words a sentence); shares of all characters that are not white space: ``digits``, ``upper_case``,
    ``lower_case``, ``punctuation``, ``commas``, ``full_stops``, ``maths`` (signs of mathematics), ``non_ascii``; ``numbers`` (runs of digits; marks
    between digits join them), ``longest_number`` (its digits), ``question_marks``, ``asks_last`` (1 if the last character is
    a question mark), ``braces``, ``code_marks`` (such as ``; = _ #``), ``indented_lines``, ``backslashes``,
    ``dollars``, ``quotes``, ``options`` (lines that begin like ``A.``, ``b)``, ``(C)`` or ``1:``), ``capitalised`` (share of
    words that begin in upper case).

    Half of a surrogate pair counts as a character that is not ASCII.  Linear in the number of characters; memory is
    bounded.

    Examples
    --------
    >>> shape = TextShape(standardize=False).fit(["What is 12 + 7?"])
    >>> row = dict(zip(shape.get_feature_names_out(), shape.transform(["What is 12 + 7?"])[0].tolist()))
    >>> round(row["words"], 4), row["asks_last"], round(row["digits"], 4)      # log(1 + 5), and 3 of 11 characters
    (1.7918, 1.0, 0.2727)
    """

    mean_: Floats
    deviation_: Floats
    low_: Floats
    high_: Floats

    def __init__(self, *, standardize: bool = True, scale: float = 1.0) -> None:
        self.standardize = standardize
        self.scale = scale

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn mean, deviation and range of every number.

        Parameters
        ----------
        X : list of n str
        y : ignored
        """
        if isinstance(self.scale, bool) or not isinstance(self.scale, Real) or not 0.0 < float(self.scale) < np.inf:
            raise RouterInputError(f"TextShape: scale must be a finite number > 0, got {self.scale!r}")
        table = _table(_texts(X))
        self.low_, self.high_, self.mean_ = table.min(axis=0), table.max(axis=0), table.mean(axis=0)
        # Rounding of the mean must not pass for a spread.
        spread = np.where(self.low_ < self.high_, table.std(axis=0), 0.0)
        self.deviation_ = np.where(spread > 0.0, spread, 1.0)
        self.mean_ = np.where(spread > 0.0, self.mean_, self.low_)
        return self

    def transform(self, X: Any) -> Floats:
        """Numbers of every text, shape (n, d)."""
        check_is_fitted(self, "mean_")
        table = _table(_texts(X))
        if self.standardize:
            table = (np.clip(table, self.low_, self.high_) - self.mean_) / self.deviation_
        return table * float(self.scale)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the numbers, shape (d,)."""
        return np.array(list(_NUMBERS), dtype=object)


def _texts(X: Any) -> list[str]:
    texts = read_texts(X, owner="TextShape")
    if not texts:
        raise RouterInputError("TextShape: X has no texts, and at least one is required")
    return texts


def _table(texts: list[str]) -> Floats:
    """Numbers of all texts, part by part so that memory stays bounded."""
    ends = np.cumsum([len(text) + 1 for text in texts])
    parts, start = [], 0
    while start < len(texts):
        reach = (ends[start - 1] if start else 0) + _CHARACTERS_AT_ONCE
        stop = max(int(np.searchsorted(ends, reach, side="right")), start + 1)
        glyphs = _Glyphs.of(texts[start:stop])
        parts.append(np.column_stack([number(glyphs) for number in _NUMBERS.values()]))
        start = stop
    return np.vstack(parts)


@dataclass(frozen=True)
class _Glyphs:
    """Characters of several texts, one after the other, a line feed after each.

    Attributes
    ----------
    code : uint32 array of shape (t,)
    start : int array of shape (n,)
        Where each text begins.
    """

    code: NDArray[np.uint32]
    start: NDArray[np.intp]

    @classmethod
    def of(cls, texts: list[str]) -> _Glyphs:
        joined = "".join([text + "\n" for text in texts])
        code = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        size = np.array([len(text) + 1 for text in texts])
        return cls(code, np.cumsum(size) - size)

    def total(self, flags: Flags) -> Floats:
        """How many are flagged in every text, shape (n,)."""
        return np.diff(np.searchsorted(np.flatnonzero(flags), [*self.start, len(flags)])).astype(np.float64)

    def longest(self, flags: Flags, counted: Flags | None = None) -> Floats:
        """The most that a run of flags counts in every text, shape (n,)."""
        begins, ends = _begins(flags), _begins(flags[::-1])[::-1]
        passed = np.cumsum(flags if counted is None else counted)
        first = np.flatnonzero(begins)
        most = np.zeros(len(self.start))
        if len(first):
            length = passed[ends] - passed[first] + (1 if counted is None else counted[first])
            np.maximum.at(most, np.searchsorted(self.start, first, side="right") - 1, length)
        return most

    def any_of(self, signs: str) -> Flags:
        return self.kind(_SIGNS[signs][0])

    def kind(self, *bits: int) -> Flags:
        return (self._kinds & np.uint32(sum(bits))) != 0

    @cached_property
    def _kinds(self) -> NDArray[np.uint32]:
        return _kinds_of_characters()[self.code]

    @cached_property
    def word(self) -> Flags:
        return ~self.kind(_SPACE)

    @cached_property
    def ink(self) -> Floats:
        """Characters that are not white space, at least 1, shape (n,)."""
        return np.maximum(self.total(self.word), 1.0)

    @cached_property
    def words(self) -> Floats:
        return self.total(_begins(self.word))

    @cached_property
    def line_start(self) -> Flags:
        return _after(self.any_of("line end"), edge=True)

    @cached_property
    def number(self) -> Flags:
        digit = self.kind(_DIGIT)
        return digit | (self.any_of("joins digits") & _after(digit) & _before(digit))

    def share(self, flags: Flags) -> Floats:
        return self.total(flags) / self.ink


def _begins(flags: Flags) -> Flags:
    return flags & ~_after(flags)


def _after(flags: Flags, *, edge: bool = False) -> Flags:
    """Whether the character before is flagged."""
    return np.concatenate([[edge], flags[:-1]])


def _before(flags: Flags) -> Flags:
    """Whether the character behind is flagged."""
    return np.concatenate([flags[1:], [False]])


@lru_cache(maxsize=1)
def _kinds_of_characters() -> NDArray[np.uint32]:
    """Kinds of every character, as bits."""
    kinds = np.zeros(0x110000, dtype=np.uint32)
    kinds[128:] = _FOREIGN
    bit = {"Nd": _DIGIT, "Lu": _UPPER, "Lt": _UPPER, "Ll": _LOWER, "Sm": _MATHS}
    # Beyond the first planes there are signs of other kinds only.
    for code in range(0x20000):
        letter = chr(code)
        category = unicodedata.category(letter)
        kinds[code] |= bit.get(category, _PUNCTUATION if category[0] == "P" else 0)
        if letter.isspace():
            kinds[code] |= _SPACE
    for bits, signs in [(_MATHS, "*/^"), *_SIGNS.values()]:
        for sign in signs:
            kinds[ord(sign)] |= bits
    return kinds


def _log(count: Floats) -> Floats:
    return np.log1p(count)


def _options(glyphs: _Glyphs) -> Floats:
    """Lines that begin with one letter or digit and a mark, perhaps in a bracket."""
    short = ((glyphs.code < 128) & glyphs.kind(_UPPER, _LOWER)) | glyphs.kind(_DIGIT)
    first = glyphs.line_start | _after(glyphs.line_start & glyphs.any_of("opens"))
    mark = glyphs.any_of("marks an option")
    return glyphs.total(first & short & _before(mark & _before(~glyphs.word)))


def _lines(glyphs: _Glyphs) -> Floats:
    """Lines with something in them: words that are the first since the beginning of a line."""
    begins = _begins(glyphs.word)
    line = np.cumsum(glyphs.line_start)
    places = np.flatnonzero(begins)
    first = np.zeros(len(begins), dtype=bool)
    first[places[np.diff(line[places], prepend=-1) > 0]] = True
    return glyphs.total(first)


def _indented(glyphs: _Glyphs) -> Floats:
    tab, space = glyphs.any_of("tab"), glyphs.any_of("blank")
    return glyphs.total(glyphs.line_start & (tab | (space & _before(space))))


def _asks_last(glyphs: _Glyphs) -> Floats:
    place = np.where(glyphs.word, np.arange(len(glyphs.code)), -1)
    last = np.maximum.reduceat(place, glyphs.start)
    return np.where(last >= 0, glyphs.any_of("question")[last], False).astype(np.float64)


def _sentences(glyphs: _Glyphs) -> Floats:
    """Closing marks before white space, and those of scripts without it; at least 1."""
    closing = (glyphs.any_of("ends a sentence") & _before(~glyphs.word)) | glyphs.any_of("ends one without space")
    return np.maximum(glyphs.total(closing), 1.0)


_NUMBERS: dict[str, Callable[[_Glyphs], Floats]] = {
    "characters": lambda glyphs: _log(np.diff(glyphs.start, append=len(glyphs.code)) - 1.0),
    "words": lambda glyphs: _log(glyphs.words),
    "lines": lambda glyphs: _log(_lines(glyphs)),
    "word_length": lambda glyphs: _log(glyphs.total(glyphs.word) / np.maximum(glyphs.words, 1.0)),
    "longest_word": lambda glyphs: _log(glyphs.longest(glyphs.word)),
    "sentence_length": lambda glyphs: _log(glyphs.words / _sentences(glyphs)),
    "digits": lambda glyphs: glyphs.share(glyphs.kind(_DIGIT)),
    "upper_case": lambda glyphs: glyphs.share(glyphs.kind(_UPPER)),
    "lower_case": lambda glyphs: glyphs.share(glyphs.kind(_LOWER)),
    "punctuation": lambda glyphs: glyphs.share(glyphs.kind(_PUNCTUATION)),
    "commas": lambda glyphs: glyphs.share(glyphs.any_of("comma")),
    "full_stops": lambda glyphs: glyphs.share(glyphs.any_of("full stop")),
    "maths": lambda glyphs: glyphs.share(glyphs.kind(_MATHS)),
    "non_ascii": lambda glyphs: glyphs.share(glyphs.kind(_FOREIGN) & glyphs.word),
    "numbers": lambda glyphs: _log(glyphs.total(_begins(glyphs.number))),
    "longest_number": lambda glyphs: _log(glyphs.longest(glyphs.number, glyphs.kind(_DIGIT))),
    "question_marks": lambda glyphs: _log(glyphs.total(glyphs.any_of("question"))),
    "asks_last": _asks_last,
    "braces": lambda glyphs: _log(glyphs.total(glyphs.any_of("brace"))),
    "code_marks": lambda glyphs: _log(glyphs.total(glyphs.any_of("code"))),
    "indented_lines": lambda glyphs: _log(_indented(glyphs)),
    "backslashes": lambda glyphs: _log(glyphs.total(glyphs.any_of("backslash"))),
    "dollars": lambda glyphs: _log(glyphs.total(glyphs.any_of("dollar"))),
    "quotes": lambda glyphs: _log(glyphs.total(glyphs.any_of("quote"))),
    "options": lambda glyphs: _log(_options(glyphs)),
    "capitalised": lambda glyphs: (
        glyphs.total(_begins(glyphs.word) & glyphs.kind(_UPPER)) / np.maximum(glyphs.words, 1.0)
    ),
}
