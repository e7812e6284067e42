"""How much may be asked at once, and what is said when it is too much?

What is refused is refused with a status, one message that says what was found and what to do, and
the shape in which OpenAI's API tells errors: `{"error": {"message", "type", "param", "code"}}`.

This module knows no model and no web framework.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.data.collection import LONE_SURROGATE
from limbeck.errors import ConfigError

MAX_HITS = 100  # of one search
RETRY_SECONDS = 1  # what a client is told to wait when too much is asked at once


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server.

    Units: `max_batch`, `max_queue`, `max_texts` texts; `max_characters` of one text; `max_body`
    bytes of one request; `max_wait_ms` milliseconds; `read_seconds` seconds in which a request must
    have arrived. Of each request at most `max_batch` texts count as waiting.
    """

    max_batch: int = 32
    max_wait_ms: float = 0.0
    max_queue: int = 1024
    max_texts: int = 2048
    max_characters: int = 32_000
    max_body: int = 16_000_000
    read_seconds: float = 30.0

    def check(self) -> None:
        """Refuse limits under which some allowed request could never be answered.

        Raises:
            ConfigError: naming the two that do not fit.
        """
        if self.max_queue < self.max_batch:
            raise ConfigError(
                f"--max-queue {self.max_queue} has no room for the {self.max_batch} texts of "
                f"--max-batch. Allow at least {self.max_batch}."
            )

    def check_texts(self, name: str, texts: Sequence[str]) -> None:
        """Refuse too many texts, and texts that are empty, too long or hold half a character.

        Raises:
            Refused: naming the first one.
        """
        if not texts:
            raise Refused(400, f"`{name}` is empty. Send at least one text.", param=name)
        if len(texts) > self.max_texts:
            raise Refused(
                400,
                f"`{name}` has {len(texts):,} texts; one request may have {self.max_texts:,}. Send "
                "several requests.",
                param=name,
                code="too_many_texts",
            )
        for at, text in enumerate(texts):
            self.check_text(f"{name}[{at}]" if len(texts) > 1 else name, text)

    def check_text(self, name: str, text: str) -> None:
        """Refuse a text that is empty, too long or holds half a character.

        Raises:
            Refused: saying which.
        """
        if not text.strip():
            raise Refused(400, f"`{name}` is empty. Send a text.", param=name, code="empty_text")
        if len(text) > self.max_characters:
            raise Refused(
                400,
                f"`{name}` has {len(text):,} characters; one text may have "
                f"{self.max_characters:,}. Cut it, or send it in parts.",
                param=name,
                code="text_too_long",
            )
        if LONE_SURROGATE.search(text):
            raise Refused(
                400,
                f"`{name}` holds half a character (a lone surrogate). Send whole characters.",
                param=name,
            )


class Refused(Exception):
    """A request that is not answered, and why: an HTTP status and a message."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, object]:
        """The JSON of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def too_large(most: int) -> Refused:
    """The refusal of a body of more bytes."""
    return Refused(413, f"The body is larger than {most:,} bytes. Send fewer texts in one request.")


def shown(value: object) -> str:
    """A value of a request, short enough for a message."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
