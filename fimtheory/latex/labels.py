r"""Labels as LaTeX: names of nodes, blocks and models that may hold any character, never as commands.

Every character is printed as itself or, where the fonts of a plain LaTeX installation lack it, as its code point.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["NAMED_CHARACTERS", "escaped", "file_stem", "label_key", "listed", "math_name", "prose", "typewriter"]

_COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    " ": r"\ ",
    "–": r"\textendash{}",
}
NAMED_CHARACTERS = (
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿĂăĄąĆćČčĎďđĘęĚěĞğĹĺĽľŁłŃńŇňŊŋŐőŒœŔŕŘřŚśŞşŠšŤť"
    "ŢţŮůŰűŸŹźŻżŽž"
)
"""Letters beyond ASCII that the T1 encoding of the Latin Modern fonts holds, each in a place of its own."""
_BREAK_AFTER = frozenset("._/:-+=,@|")
_LONGEST_WORD = 10
_MATH_WORD = re.compile(r"[A-Za-z0-9.]+(?:_[A-Za-z0-9.]+)*")
_SAFE_MATH = re.compile(
    r"(?:[A-Za-z0-9 .,:;=+\-*/()\[\]|^_{}<>]"
    r"|\\(?:frac|tfrac|sqrt|le|ge|leq|geq|cdot|times|left|right|mathrm|operatorname|lVert|rVert|varepsilon|epsilon|tau"
    r"|sigma|lambda|gamma|beta|alpha|rho|max|min|log|exp|infty|quad|,|;| )(?![A-Za-z]))*"
)


def escaped(text: str, *, breaks: bool = False) -> str:
    r"""Return ``text`` as LaTeX that prints it; with ``breaks``, lines may break after separators and in long words.

    >>> print(escaped("50% of a_b"))
    50\%\ of\ a\_b
    >>> print(escaped("层"))
    U+5C42
    """
    parts: list[str] = []
    run = 0
    long = breaks and len(text) > 2 * _LONGEST_WORD
    for position, character in enumerate(text):
        if long and run >= _LONGEST_WORD:
            parts.append(r"\allowbreak{}")
            run = 0
        parts.append(_character(character))
        run += 1
        if breaks and character in _BREAK_AFTER and position + 1 < len(text):
            parts.append(r"\allowbreak{}")
            run = 0
    made = "".join(parts)
    for ligature in ("--", ",,"):
        while ligature in made:
            made = made.replace(ligature, f"{ligature[0]}{{}}{ligature[1]}")
    return made


def _character(character: str) -> str:
    if character in _COMMANDS:
        return _COMMANDS[character]
    if " " < character <= "~" or character in NAMED_CHARACTERS:
        return character
    return f"U+{ord(character):04X}"


def typewriter(text: str) -> str:
    r"""Return a label in typewriter type, which may break over lines.

    >>> print(typewriter("layer1.0"))
    \texttt{layer1.\allowbreak{}0}
    """
    return rf"\texttt{{{escaped(text, breaks=True)}}}"


def math_name(text: str) -> str:
    r"""Return a label as an upright word for a formula.

    >>> print(math_name("ln_1"), math_name("a$b"))
    \mathrm{ln\_1} \textnormal{a\$b}
    """
    if _MATH_WORD.fullmatch(text):
        plain = text.replace("_", r"\_")
        return rf"\mathrm{{{plain}}}"
    return rf"\textnormal{{{escaped(text)}}}"


def prose(statement: str) -> str:
    r"""Return a sentence in which ``$...$`` holds LaTeX; what is not plain mathematics is printed as it stands.

    >>> print(prose("At 50% the norm is at most $R_{1}$, not $\\input{x}$."))
    At 50\% the norm is at most $R_{1}$, not \$\textbackslash{}input\{x\}\$.
    """
    pieces = statement.split("$")
    if len(pieces) % 2 == 0:
        return _words(statement)
    made = []
    for k, piece in enumerate(pieces):
        if k % 2 == 0:
            made.append(_words(piece))
        elif _SAFE_MATH.fullmatch(piece) and _balanced(piece):
            made.append(f"${piece}$")
        else:
            made.append(_words(f"${piece}$"))
    return "".join(made)


def listed(words: Sequence[str]) -> str:
    """Return words with commas and an "and".

    >>> listed(["gain", "growth", "shape"])
    'gain, growth and shape'
    """
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _words(text: str) -> str:
    """Return running text, whose spaces may break and whose hyphens and commas are ordinary."""
    return " ".join(escaped(word, breaks=len(word) > 2 * _LONGEST_WORD) for word in text.split(" "))


def _balanced(piece: str) -> bool:
    depth = 0
    for character in piece:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0 and piece.count(r"\left") == piece.count(r"\right") and bool(piece.strip())


def file_stem(text: str) -> str:
    """Return a name for files: ASCII letters, digits, dots, underscores and hyphens.

    >>> file_stem("../vit_b_16 %")
    'vit_b_16'
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:80] or "graph"


def label_key(text: str) -> str:
    """Return a name for LaTeX labels: ASCII letters, digits, dots and hyphens.

    >>> label_key("a/b: 50%")
    'a-b-50'
    """
    return file_stem(text.replace("_", "-"))
