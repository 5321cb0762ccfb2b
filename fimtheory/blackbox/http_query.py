"""A service that answers over HTTP in JSON as a black box."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import final
from urllib.parse import urlsplit

import numpy as np

from fimtheory.errors import AnswerError, DataError, QueryError

__all__ = ["HttpQuery"]

_MOST_BYTES = 256 * 2**20


@final
class HttpQuery:
    """POST of ``{"inputs": [...]}``, nested lists of shape ``(B, *input)``, answered by ``{"outputs": [[...], ...]}``.

    An answer has one row of K numbers for each input; ``null`` stands for a class that is left out.  Nothing of an
    answer is executed.  Services of other machines are reached through the proxy that the environment names.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``.
    timeout : float
        Seconds without a sign of life after which a request is given up.

    Raises
    ------
    DataError
        Another kind of address.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
        except ValueError:
            host = None
        if not host:
            raise DataError(f"{url!r}: expected an address such as http://127.0.0.1:8000/predict")
        self._url = url
        self._timeout = timeout
        here = host in ("127.0.0.1", "::1", "localhost")  # not behind a proxy
        self._opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] * here)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return ``(B, K)`` outputs of ``(B, *input)`` inputs.

        Raises
        ------
        QueryError
            The service cannot be reached, takes too long or answers with an error.
        AnswerError
            Its answer is something else than described above.
        """
        body = json.dumps({"inputs": np.asarray(x).tolist()}, allow_nan=False).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                text = response.read(_MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(f"{self._url} answers with status {error.code} {error.reason}") from None
        except TimeoutError:
            raise QueryError(f"{self._url} gives no answer within {self._timeout:g} s") from None
        except (OSError, ValueError) as error:  # of urllib, http.client and sockets
            reason = getattr(error, "reason", error)
            raise QueryError(f"{self._url} cannot be reached: {reason}") from None
        if len(text) > _MOST_BYTES:
            raise AnswerError(f"{self._url} answers with more than {_MOST_BYTES} bytes")
        return _matrix(text, self._url)


def _matrix(text: bytes, url: str) -> np.ndarray:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise AnswerError(f"{url} answers with something else than JSON: {text[:60]!r}") from None
    rows = value.get("outputs") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise AnswerError(f'{url}: expected {{"outputs": [[...], ...]}} with one list of numbers for each input')
    entries = {type(entry) for row in rows for entry in row}
    if not entries <= {int, float, type(None)} or len({len(row) for row in rows}) != 1:
        raise AnswerError(f"{url}: the rows of its answer are not lists of numbers of one length")
    try:
        data = np.array([[0.0 if entry is None else float(entry) for entry in row] for row in rows])
        return np.ma.masked_array(data, [[entry is None for entry in row] for row in rows])
    except OverflowError:
        raise AnswerError(f"{url}: a number of its answer is too large") from None
