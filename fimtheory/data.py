"""Inputs to evaluate models on: digits, random images, arrays, image folders and CIFAR-10, without running code.

Pixels are floats in [0, 1].  Images are brought to the shape asked for (bilinear, gray repeated or colours averaged);
arrays must have it.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory.errors import DataError

__all__ = ["Data", "digits_are_tests", "load_data"]

MAX_BYTES = 4 * 2**30
"""Most bytes read from one file, unpacked."""
SOURCES = "digits, digits:train, digits:test, random:N, npz:PATH, imagefolder:PATH, cifar10:PATH"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
_CIFAR_RECORD = 1 + 3 * 32 * 32


@final
@dataclass(frozen=True, eq=False)
class Data:
    """A sample of inputs.

    Attributes
    ----------
    inputs
        float32 of shape (n, *input shape).
    labels
        int64 of shape (n,), or None where the source has none.
    description
        One line for reports.
    indices
        int64 of shape (n,): where each input stands in the whole source, counted from 0 (all digits, the rows of an
        array, the images of a folder by folder and name, the records of a file); None where that is unknown.
    """

    inputs: Tensor
    labels: Tensor | None
    description: str
    indices: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)


def load_data(
    spec: str, input_shape: Sequence[int], n: int | None = None, seed: int = 0, *, at_most: int | None = None
) -> Data:
    """Return the inputs that ``spec`` names, in the shape a model takes.

    Parameters
    ----------
    spec
        ``digits`` (scikit-learn's 8x8 digits; ``digits:test`` every fifth one, ``digits:train`` the others),
        ``random:N`` (N images of independent pixels uniform in [0, 1]), ``npz:PATH`` (array ``inputs`` or the only
        one, of shape (n, *input_shape), uint8 divided by 255, and if there is one ``labels``), ``imagefolder:PATH``
        (images, in one folder per class or all in PATH) or ``cifar10:PATH`` (the binary version: a .bin file, or a
        folder, of which the test batch is read).
    input_shape
        Shape of one input: (channels, height, width), or (features,) where that many numbers are flattened.
    n
        How many inputs to keep, drawn without replacement; None keeps all.
    seed
        Of ``random:N`` and of the draw.
    at_most
        Where ``n`` is None: keep no more than this many, as if there were ``n``.

    Raises
    ------
    DataError
        The source cannot be read, is empty, has fewer than ``n`` inputs, does not fit ``input_shape`` or holds NaN
        or infinite values; the message names the file and the cause.

    Examples
    --------
    >>> data = load_data("digits", (1, 8, 8), n=100)
    >>> data.inputs.shape, data.labels.shape, data.description
    (torch.Size([100, 1, 8, 8]), torch.Size([100]), '100 of digits')
    """
    shape = tuple(input_shape)
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise DataError(f"input shape {shape}: expected positive whole numbers, such as (3, 32, 32)")
    if n is not None and n < 1:
        raise DataError(f"{n} inputs asked for; expected at least 1")
    source, _, argument = spec.partition(":")
    kept = at_most if n is None else n
    readers: dict[str, Callable[[], Data]] = {
        "digits": lambda: _digits(argument, shape),
        "random": lambda: _random(argument, shape, seed),
        "npz": lambda: _npz(Path(argument), shape),
        "imagefolder": lambda: _image_folder(Path(argument), shape, kept, seed),
        "cifar10": lambda: _cifar10(Path(argument), shape, kept, seed),
    }
    if source not in readers or (not argument and source != "digits"):
        raise DataError(f"data {spec!r}: expected one of {SOURCES}")
    found = readers[source]()
    if kept is not None and kept < len(found):
        chosen = _draw(len(found), kept, seed)
        labels, indices = (None if each is None else each[chosen] for each in (found.labels, found.indices))
        found = replace(found, inputs=found.inputs[chosen], labels=labels, indices=indices)
    if n is not None and n > len(found):
        raise DataError(f"data {spec}: {n} inputs asked for, but there are {len(found)}")
    return replace(found, description=f"{len(found)} of {spec}{found.description}")


def digits_are_tests(count: int) -> Tensor:
    """Return which of the first ``count`` digits are for testing: every fifth, starting with the first.

    >>> digits_are_tests(7).tolist()
    [True, False, False, False, False, True, False]
    """
    return torch.arange(count) % 5 == 0


# ---- sources ----------------------------------------------------------------------------------------------------


def _digits(part: str, shape: tuple[int, ...]) -> Data:
    from sklearn.datasets import load_digits  # takes a second to import

    if part not in ("", "train", "test"):
        raise DataError(f"data 'digits:{part}': expected digits, digits:train or digits:test")
    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(classes, dtype=torch.int64)
    indices = torch.arange(len(images))
    if part:
        indices = indices[digits_are_tests(len(images)) == (part == "test")]
    return _fitted(images[indices], shape, "digits", labels[indices], indices)


def _random(argument: str, shape: tuple[int, ...], seed: int) -> Data:
    if not argument.isdecimal() or not 1 <= int(argument) <= 10**6:
        raise DataError(f"data 'random:{argument}': expected random:N with N from 1 to 1000000")
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(int(argument), *shape, generator=generator)
    return Data(images, None, "", torch.arange(len(images)))


def _npz(path: Path, shape: tuple[int, ...]) -> Data:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size} bytes unpacked; at most {MAX_BYTES} are read")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except zipfile.BadZipFile:
        raise DataError(f"{path}: not an .npz file, or truncated") from None
    except (ValueError, TypeError, SyntaxError, EOFError, RuntimeError, MemoryError, TokenError, zlib.error) as error:
        raise DataError(f"{path}: holds something else than arrays of numbers, or is damaged: {error}") from None
    labels = arrays.pop("labels", None)
    if "inputs" not in arrays and len(arrays) != 1:
        raise DataError(f"{path}: arrays {sorted(arrays)}; expected one named 'inputs', or only one beside 'labels'")
    inputs = arrays["inputs"] if "inputs" in arrays else next(iter(arrays.values()))
    if inputs.dtype.kind not in "fiu":
        raise DataError(f"{path}: inputs are {inputs.dtype}; expected real numbers")
    if inputs.shape[1:] != shape:
        raise DataError(f"{path}: inputs have shape {inputs.shape}; expected (n, {', '.join(map(str, shape))})")
    with np.errstate(over="ignore"):
        converted = inputs.astype(np.float32) / np.float32(255 if inputs.dtype == np.uint8 else 1)
    if not np.isfinite(converted).all():
        raise DataError(f"{path}: inputs hold NaN or infinite values, or values too large for float32")
    known = None if labels is None else _labels(labels, inputs, path)
    return Data(_some(torch.from_numpy(converted), path), known, "", torch.arange(len(inputs)))


def _labels(labels: np.ndarray, inputs: np.ndarray, path: Path) -> Tensor:
    if labels.shape != inputs.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; expected one whole number for each of "
            f"{len(inputs)} inputs"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _image_folder(path: Path, shape: tuple[int, ...], n: int | None, seed: int) -> Data:
    try:
        from PIL import Image, UnidentifiedImageError  # an optional dependency
    except ImportError:
        raise DataError("image folders need Pillow; install it with: pip install 'fimtheory[images]'") from None
    channels, height, width = _image_shape(shape, str(path))
    if not path.is_dir():
        raise DataError(f"{path}: not a folder of images")
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    folders = [path / name for name in classes] or [path]
    files = [
        (file, label)
        for label, folder in enumerate(folders)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in _SUFFIXES
    ]
    indices = _draw(len(files), n, seed)
    files = [files[k] for k in indices.tolist()]
    images = []
    for file, _ in files:
        try:
            with Image.open(file) as opened:
                image = opened.convert("L" if channels == 1 else "RGB").resize(
                    (width, height), Image.Resampling.BILINEAR
                )
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
            raise DataError(f"{file}: not an image that can be read: {error}") from None
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
        images.append(pixels.reshape(height, width, channels).permute(2, 0, 1))
    if not images:
        raise DataError(f"{path}: no images ({', '.join(_SUFFIXES)}) in it or in its folders")
    labels = torch.tensor([label for _, label in files]) if classes else None
    return Data(torch.stack(images), labels, f", brought to {_words(shape)}", indices)


def _cifar10(path: Path, shape: tuple[int, ...], n: int | None, seed: int) -> Data:
    file = path / "test_batch.bin" if path.is_dir() else path
    if not file.exists() and (path / "cifar-10-batches-bin" / "test_batch.bin").exists():
        file = path / "cifar-10-batches-bin" / "test_batch.bin"
    if file.suffix != ".bin" or (not file.exists() and (path / "test_batch").exists()):
        raise DataError(
            f"{path}: not the binary version of CIFAR-10 (the Python version is pickled, and reading it would run "
            "code); get cifar-10-binary.tar.gz"
        )
    try:
        size = file.stat().st_size
        if size > MAX_BYTES or size % _CIFAR_RECORD or not size:
            raise DataError(f"{file}: {size} bytes; expected a positive multiple of {_CIFAR_RECORD}, so it is damaged")
        records = torch.from_numpy(np.fromfile(file, dtype=np.uint8)).reshape(-1, _CIFAR_RECORD)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    indices = _draw(len(records), n, seed)
    records = records[indices]
    labels = records[:, 0].long()
    if int(labels.max()) > 9:
        raise DataError(f"{file}: label {int(labels.max())}; expected 0 to 9, so it is damaged or another data set")
    return _fitted(records[:, 1:].reshape(-1, 3, 32, 32).float() / 255, shape, str(file), labels, indices)


# ---- shapes -----------------------------------------------------------------------------------------------------


def _image_shape(shape: tuple[int, ...], where: str) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"{where}: images cannot be brought to shape {shape}; expected (1 or 3, height, width)")
    return shape[0], shape[1], shape[2]


def _fitted(images: Tensor, shape: tuple[int, ...], where: str, labels: Tensor, indices: Tensor) -> Data:
    """Return images in another shape, with a description of the change."""
    inputs = _fit(images, shape, where)
    before = tuple(images.shape[1:])
    same = before == shape or (math.prod(before),) == shape
    change = "" if same else f", brought from {_words(before)} to {_words(shape)}"
    return Data(inputs, labels, change, indices)


def _words(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _fit(images: Tensor, shape: tuple[int, ...], where: str) -> Tensor:
    """Return (n, channels, height, width) images in another shape."""
    if shape == (math.prod(images.shape[1:]),):
        return images.flatten(1)
    channels, height, width = _image_shape(shape, where)
    if channels == 1 and images.shape[1] == 3:
        images = images.mean(1, keepdim=True)
    if (height, width) != images.shape[2:]:
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images.expand(-1, channels, -1, -1).contiguous()


def _some(inputs: Tensor, path: Path) -> Tensor:
    if not len(inputs):
        raise DataError(f"{path}: no inputs")
    return inputs


def _draw(count: int, n: int | None, seed: int) -> Tensor:
    """Return ``n`` of the positions 0, ..., count - 1 in order, drawn without replacement; all where n is no fewer."""
    if n is None or n >= count:
        return torch.arange(count)
    return torch.from_numpy(np.sort(np.random.default_rng(seed).choice(count, n, replace=False)))
