"""Types of arguments."""

from typing import Any, Protocol


class Array(Protocol):
    """An array of numpy, torch or any other library that speaks DLPack; its memory is used in place."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...
