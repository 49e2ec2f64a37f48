"""Plain tables for a terminal."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, indent: str = "  ") -> str:
    """Columns as wide as their content; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(head), *cells]) for at in range(len(head))]
    right = [bool(rows) and all(isinstance(row[at], int) for row in rows) for at in range(len(head))]

    def line(values: Sequence[str]) -> str:
        fitted = [
            value.rjust(width) if flush else value.ljust(width)
            for value, width, flush in zip(values, widths, right, strict=True)
        ]
        return indent + "  ".join(fitted).rstrip()

    return "\n".join([line(head), indent + "  ".join("-" * width for width in widths), *(line(row) for row in cells)])
