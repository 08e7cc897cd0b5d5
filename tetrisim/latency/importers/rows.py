"""Rows of other projects' CSV files, plain or gzipped, with the place of every mistake."""

import csv
import gzip
import math
from collections.abc import Iterator
from pathlib import Path

from tetrisim.errors import ProfileError, nearest_name


def packed_or_plain(path: Path) -> Path:
    """The file that is there: `path`, or `path` + `.gz`; neither raises ProfileError."""
    packed = path.with_name(path.name + ".gz")
    found = next((file for file in (path, packed) if file.is_file()), None)
    if found is None:
        raise ProfileError(str(path), "is missing", f"{path.name} or {packed.name}")
    return found


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(file:line, row) of a CSV; one cut short or of the wrong width raises ProfileError."""
    file_path = packed_or_plain(path)
    try:
        with (
            gzip.open(file_path, "rt", newline="") if file_path.suffix == ".gz" else file_path.open(newline="") as file
        ):
            for number, row in enumerate(csv.DictReader(file), start=2):
                if None in row or None in row.values():
                    raise ProfileError(f"{file_path}:{number}", "has not one value a column", "a whole CSV file")
                yield f"{file_path}:{number}", row
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ProfileError(str(file_path), f"cannot be read to its end: {error}", "a whole CSV file") from None


def number(row: dict[str, str], column: str, where: str) -> float:
    """A number above 0 in one column."""
    if column not in row:
        raise ProfileError(where, f"column '{column}' is missing", "that column", nearest_name(column, row))
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ProfileError(where, f"{column} is '{row[column]}'", "a number above 0")
    return value


def whole(row: dict[str, str], column: str, where: str) -> int:
    """A whole number above 0 in one column."""
    value = number(row, column, where)
    if value != int(value):
        raise ProfileError(where, f"{column} is '{row[column]}'", "a whole number")
    return int(value)
