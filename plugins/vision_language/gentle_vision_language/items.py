"""The raw items: an `image` item is an `ImageFile`, encoded bytes or an array; a `text` item is a string.

Nothing is decoded until an encoder asks for pixels, so an item is small, picklable and cheap to pass around.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from gentle_core.api import DataError

IMAGE = "image"
TEXT = "text"


@attrs.frozen
class ImageFile:
    """An image where it lies on disk: a whole file, or a stretch of one (a member of a tar archive).

    Attributes:
        path: the file. As text, because a hundred thousand `Path` objects are heavy.
        offset, length: where the encoded image starts in the file, and its bytes; a length of -1 means to the end.
        name: what errors call it; the path where it is empty.
    """

    path: str
    offset: int = 0
    length: int = -1
    name: str = attrs.field(default="", eq=False)

    def __str__(self) -> str:
        return self.name or self.path

    def content(self) -> bytes:
        """The encoded image: what the item is known by, wherever it lies.

        Raises:
            DataError: the file is not there any more, or cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.length)
        except OSError as error:
            raise DataError(f"{self}: {error.strerror or error}") from error


class Caption(str):
    """A text that knows the other captions of the same image.

    It is a string wherever a string will do. `others` is what the augmentation `other-caption` draws from.
    """

    others: tuple[str, ...]

    def __new__(cls, text: str, others: Iterable[str] = ()) -> Caption:
        made = super().__new__(cls, text)
        made.others = tuple(others)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Caption, (str(self), self.others)
