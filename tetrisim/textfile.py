"""Text files read whole, plain or gzipped."""

import gzip
import zlib
from pathlib import Path

from tetrisim.errors import TetrisimError


def read_lines(path: Path, refused: type[TetrisimError], expected: str) -> list[str]:
    """The lines of a file, unzipped if it is gzipped; one that cannot be read raises `refused`, which says why."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as problem:
        raise refused(str(path), f"cannot be read ({problem})", expected) from None
