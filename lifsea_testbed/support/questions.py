"""Questions to a confined reader, and their answers: frames of JSON on a socket, each behind its length in four bytes.

JSON, because reading it runs nothing, whatever a hostile image made of its reader; msgspec makes the typed values of
it, strictly. Strings keep the halves of surrogate pairs that stand for bytes that are not UTF-8.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import msgspec

from lifsea_testbed.errors import AnswerUnreadable, DiskDamaged, Explained, ImageRefused, NotJudged, Reason
from lifsea_testbed.support.deadline import Deadline

#: The largest frame (bytes); the longest answer, the packages of a full distribution, has some 400 KiB.
LARGEST = 8 << 20
_LENGTH = 4
#: The errors that an answer may be.
_ERRORS = {kind.__name__: kind for kind in (AnswerUnreadable, DiskDamaged, ImageRefused)}

P = ParamSpec("P")
T = TypeVar("T")


class Question(Generic[P, T]):
    """A function over what a reader has open; `noun` names what it reads, for errors."""

    def __init__(self, function: Callable[Concatenate[Any, P], T], noun: str) -> None:
        self.function, self.noun = function, noun
        self.__doc__ = function.__doc__

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    def request(self, *args: P.args, **kwargs: P.kwargs) -> QuestionFrame:
        """Returns the request with these arguments."""
        return QuestionFrame(question=self.name, values=_plain(args), named=_plain(kwargs))

    def answer(self, subject: object, request: QuestionFrame) -> AnswerFrame:
        """Returns the function's result as an answer, or the error that it raised.

        Raises:
            ValueError: the arguments are not of the function's types.
        """
        names = list(self._types)[1:]
        given = dict(zip(names, request.values, strict=False)) | request.named
        arguments = {name: _typed(value, self._types[name]) for name, value in given.items()}
        try:
            function: Callable[..., T] = self.function
            return AnswerFrame(value=_plain(function(subject, **arguments)))
        except NotJudged as error:
            return AnswerFrame(error=NotJudged.__name__, happened=str(error), reason=error.reason)
        except tuple(_ERRORS.values()) as error:
            return AnswerFrame(error=type(error).__name__, happened=error.happened, expected=error.expected,
                          evidence=error.evidence, hint=error.hint)  # fmt: skip

    def result(self, answer: AnswerFrame) -> T:
        """Returns the value in an answer.

        Raises:
            AnswerUnreadable, DiskDamaged, ImageRefused, NotJudged: the answer is that error.
            ValueError: the answer is not of the function's type.
        """
        if answer.error == NotJudged.__name__:
            raise NotJudged(answer.happened, Reason(answer.reason))
        if answer.error:
            raise self._error(answer)
        result: T = _typed(answer.value, self._types["return"])
        return result

    def _error(self, answer: AnswerFrame) -> Explained:
        if answer.error not in _ERRORS:
            raise ValueError(f"an error of the kind {answer.error[:40]!r}")
        return _ERRORS[answer.error](answer.happened, expected=answer.expected, evidence=answer.evidence,
                                     hint=answer.hint)  # fmt: skip

    @functools.cached_property
    def _types(self) -> dict[str, Any]:
        hints = typing.get_type_hints(self.function)
        names = self.function.__code__.co_varnames[:self.function.__code__.co_argcount]
        return {name: hints.get(name) for name in (*names, "return")}


@dataclass(frozen=True, kw_only=True)
class QuestionFrame:
    """A question by its name, with its arguments as plain data."""

    question: str
    values: list[Any]
    named: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AnswerFrame:
    """The value of a question as plain data; or an error, by the name of its class, with its parts.

    `ended` names what the reader lacked or what went wrong in it: it then answers no further question.
    """

    value: Any = None
    error: str = ""
    happened: str = ""
    expected: str = ""
    evidence: str = ""
    hint: str = ""
    reason: str = ""
    ended: str = ""


def question(noun: str) -> Callable[[Callable[Concatenate[Any, P], T]], Question[P, T]]:
    """Makes a question of a function whose first argument is what the reader has open; `noun` is what it reads."""
    return lambda function: Question(function, noun)


def table(namespace: Mapping[str, object]) -> dict[str, Question[..., Any]]:
    """Returns the questions of a module, by name."""
    return {found.name: found for found in namespace.values() if isinstance(found, Question)}


def send(connection: socket.socket, message: QuestionFrame | AnswerFrame) -> None:
    """Sends a frame.

    Raises:
        OverflowError: it is larger than a frame may be.
        OSError: the other end is gone, or does not take it in the connection's time.
    """
    data = json.dumps(_plain(message)).encode("ascii")
    if len(data) > LARGEST:
        raise OverflowError(f"{len(data)} bytes; the limit is {LARGEST}")
    connection.sendall(len(data).to_bytes(_LENGTH) + data)


def receive(connection: socket.socket, kind: type[T], deadline: Deadline | None = None) -> T | None:
    """Returns the next frame, or None if the other end is gone.

    Raises:
        TimeoutError: it did not come before the deadline.
        ValueError: it is too large, or no such frame.
    """
    head = _exactly(connection, _LENGTH, deadline)
    if head is None:
        return None
    if (length := int.from_bytes(head)) > LARGEST:
        raise ValueError(f"a frame of {length} bytes; the limit is {LARGEST}")
    data = _exactly(connection, length, deadline)
    if data is None:
        return None
    try:
        message: T = _typed(json.loads(data), kind)
    except RecursionError:
        raise ValueError("a frame that is nested too deeply") from None
    return message


def _exactly(connection: socket.socket, length: int, deadline: Deadline | None) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        if deadline is not None and deadline.expired:
            raise TimeoutError
        connection.settimeout(None if deadline is None else max(deadline.remaining, 0.001))
        part = b""
        with contextlib.suppress(ConnectionError):
            part = connection.recv(min(length - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value, enc_hook=str, str_keys=True)


def _typed(value: object, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, dec_hook=lambda wanted, plain: wanted(plain), str_keys=True)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
