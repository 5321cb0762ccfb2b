"""Write reports: a LaTeX appendix for each theorem, and its PDF where latexmk is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jinja2

from fimtheory.bibliography import BIBLIOGRAPHY
from fimtheory.derivation import Derivation
from fimtheory.errors import DataError
from fimtheory.kernel import check
from fimtheory.latex.chapters import Chapter, chapter
from fimtheory.latex.labels import label_key, prose, typewriter
from fimtheory.latex.proved import proved_theorem
from fimtheory.proofs import Proof, replay

if TYPE_CHECKING:
    from fimtheory.evaluation import Evaluation

__all__ = ["Reportable", "compiled", "report", "require_directory", "tex", "theorems_tex", "typeset"]

_CITED = re.compile(r"\\cite(?:\[\{[^\]]*\}\]|\[[^\]]*\])?\{([A-Za-z0-9.-]+)\}")
_THEOREMS = "theorems"
_SECONDS = 180
_TEX_ALONE = "write the .tex alone with --no-pdf (in Python compile=False)"
_ENVIRONMENT = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "openin_any": "p", "openout_any": "p"}
"""No date in the PDF, and no file read or written outside of the working directory and the TeX installation."""


class Reportable(Protocol):
    """A verdict: what ``fimtheory.verify`` returns."""

    @property
    def derivation(self) -> Derivation:
        """The theorem."""
        ...

    @property
    def bound(self) -> Evaluation:
        """Its value on the model's weights."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The verdict as ``fimtheory verify --json`` prints it."""
        ...


Target = Derivation | Reportable | Proof | tuple[Derivation, "Evaluation | None", "Reportable | None"]


def report(targets: Sequence[Target], out: str | Path, *, compile: bool = True) -> list[Path]:
    """Write an appendix for each target and return the files written.

    Parameters
    ----------
    targets : sequence
        Derivations; verdicts; tuples (derivation, evaluation or None, verdict or None); or proofs, all of which go into
        one document, ``theorems``.
    out : str or Path
        Directory for the files, named after the graphs; it is made if need be.
    compile : bool
        Also make a PDF; without latexmk a line on stderr says how to get it.

    Raises
    ------
    CheckError
        The kernel refuses a derivation; nothing is written.
    DataError
        A target is something else, or a file cannot be written.
    """
    directory = require_directory(out)
    proofs = [target for target in targets if isinstance(target, Proof)]
    chapters = _numbered([_chapter(target) for target in targets if not isinstance(target, Proof)], bool(proofs))
    documents = {name: tex(made) for name, made in chapters.items()}
    if proofs:
        documents[_THEOREMS] = theorems_tex(proofs)
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, document in documents.items():
            written.append(_placed(document.encode(), directory / f"{name}.tex"))
        if compile and shutil.which("latexmk") is None:
            names = " ".join(f"{name}.tex" for name in documents)
            print(f"no latexmk on the PATH; for PDFs install TeX Live and run: latexmk -pdf {names}", file=sys.stderr)
        elif compile:
            for name, document in documents.items():
                written.append(_placed(compiled(document), directory / f"{name}.pdf"))
    except OSError as error:
        raise DataError(f"{directory}: the report cannot be written: {error.strerror or error}") from None
    return written


def require_directory(path: str | Path) -> Path:
    """Return ``path`` if it is a directory to write in, or may be made one; nothing is made yet.

    Raises
    ------
    DataError
        It is a file, lies in one, or permission is missing.
    """
    directory = Path(path)
    nearest = next(each for each in (directory, *directory.absolute().parents) if os.path.exists(each))
    if not nearest.is_dir():
        raise DataError(f"{directory}: the report cannot be written: {nearest} is not a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DataError(f"{directory}: the report cannot be written: no permission to write in {nearest}")
    return directory


def _chapter(target: Any) -> Chapter:
    if isinstance(target, Derivation):
        target = (target, None, None)
    elif not isinstance(target, tuple):
        if not all(hasattr(target, name) for name in ("derivation", "bound", "to_json")):
            raise DataError(f"report takes derivations and verdicts, got {type(target).__name__}")
        target = (target.derivation, target.bound, target)
    derivation, evaluation, verdict = target
    check(derivation)
    return chapter(derivation, evaluation, None if verdict is None else verdict.to_json())


def _numbered(chapters: list[Chapter], theorems: bool) -> dict[str, Chapter]:
    """Name each chapter's files; chapters of one name, or that of the theorems, are told apart by a number."""
    named: dict[str, Chapter] = {}
    taken = {_THEOREMS} if theorems else set[str]()  # without case, as on file systems that ignore it
    for made in chapters:
        name, k = made.stem, 1
        while name.casefold() in taken:
            k += 1
            name = f"{made.stem}-{k}"
        taken.add(name.casefold())
        named[name] = made
    return named


def tex(content: Chapter) -> str:
    """Return a chapter as a LaTeX document; the same chapter gives the same text."""
    draft = _rendered("appendix.tex.j2", c=content, cut=False, bibliography="")
    return _rendered("appendix.tex.j2", c=content, cut=r"\ldots" in draft, bibliography=_bibliography(draft))


def theorems_tex(proofs: Sequence[Proof]) -> str:
    """Return a LaTeX document with theorems and their proofs, which are replayed first.

    Raises
    ------
    CheckError
        The kernel refuses one.
    """
    for proof in proofs:
        replay(proof)
    theorems = [proved_theorem(proof) for proof in proofs]
    draft = _rendered("theorems.tex.j2", theorems=theorems, bibliography="")
    return _rendered("theorems.tex.j2", theorems=theorems, bibliography=_bibliography(draft))


def _rendered(name: str, **content: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fimtheory", "templates"),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(name).render(**content))


def _bibliography(draft: str) -> str:
    """The works that a document cites; nothing if there are none."""
    keys = sorted(set(_CITED.findall(draft)))
    if not keys:
        return ""
    by_key = {label_key(key): str(work) for key, work in BIBLIOGRAPHY.items()}
    missing = "cited by a rule; not in the bibliography of fimtheory."
    entries = [rf"\bibitem{{{k}}} {prose(by_key[k]) if k in by_key else f'{typewriter(k)}: {missing}'}" for k in keys]
    widest = "9" * len(str(len(keys)))
    return "\n".join([rf"\begin{{thebibliography}}{{{widest}}}\raggedright", *entries, r"\end{thebibliography}"])


def compiled(document: str) -> bytes:
    """Return the PDF of a LaTeX document.

    Raises
    ------
    DataError
        See ``typeset``.
    """
    with tempfile.TemporaryDirectory(prefix="fimtheory-") as work:
        return typeset(document, Path(work)).read_bytes()


def typeset(document: str, work: Path) -> Path:
    """Run LaTeX on a document in the directory ``work``, without shell escape, and return the PDF.

    Raises
    ------
    DataError
        LaTeX fails, which a report of a derivation should not make it do; the message holds its first error.
    """
    (work / "report.tex").write_text(document, encoding="utf-8")
    command = [
        "latexmk", "-norc", "-pdf", "-silent", "-interaction=nonstopmode", "-halt-on-error",
        "-pdflatex=pdflatex -no-shell-escape %O %S", "report.tex",
    ]  # fmt: skip
    environment = os.environ | _ENVIRONMENT
    try:
        done = subprocess.run(
            command,
            cwd=work,
            env=environment,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"latexmk took more than {_SECONDS} s; {_TEX_ALONE}") from None
    result = work / "report.pdf"
    if done.returncode != 0 or not result.exists():
        raise DataError(f"latexmk failed: {_first_error(work / 'report.log')}; {_TEX_ALONE}")
    return result


def _first_error(log: Path) -> str:
    if not log.exists():
        return "no log was written"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith("!")), "see the .tex")


def _placed(content: bytes, path: Path) -> Path:
    """Write a file so that it appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
