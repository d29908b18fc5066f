"""The commands that pack an ONNX file for storing and sending, and unpack it again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.console import Group as Lines
from rich.text import Text

from .output import OK, as_json, reported

if TYPE_CHECKING:
    from ..compressors.compact.acz import StoredTensor

Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


def pack(
    model: Annotated[Path, typer.Argument(help="ONNX file with its weights inside.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=r"Compact file to write. \[default: MODEL with .acz]")
    ] = None,
    force: Force = False,
    whole: Annotated[bool, typer.Option("--json", help="Print every tensor as JSON.")] = False,
) -> None:
    """Pack an ONNX file without loss: palettes, integers and floats are entropy-coded.

    No runtime reads the compact file; `autocompress unpack` restores the ONNX file, byte for byte.

    Examples:
        autocompress pack model.onnx

        autocompress pack model.onnx -o sent/model.acz --force
    """
    with reported():
        from ..compressors.compact.acz import pack as packed_of
        from ..compressors.compact.acz import tensors

        target = _target(model, out, ".acz", force=force)
        onnx = _read(model)
        packed = packed_of(onnx)
        rows = list(tensors(packed))
        _write(target, packed)
        if whole:
            typer.echo(as_json(as_data(rows, before=len(onnx), after=len(packed))))
        else:
            _show(of_tensors(rows, before=len(onnx), after=len(packed)), f"written: {target}")
    raise typer.Exit(OK)


def unpack(
    file: Annotated[Path, typer.Argument(help="Compact file, .acz.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=r"ONNX file to write. \[default: FILE with .onnx]")
    ] = None,
    force: Force = False,
) -> None:
    """Restore the ONNX file that a compact file was made from, byte for byte.

    Examples:
        autocompress unpack model.acz

        autocompress unpack model.acz -o served/model.onnx
    """
    with reported():
        from ..compressors.compact.acz import unpack as unpacked
        from ..errors import CompactFileError

        if file.suffix == ".onnx":
            raise CompactFileError(f"FILE must be a compact file, as `autocompress pack` writes it; got {str(file)!r}.")
        target = _target(file, out, ".onnx", force=force)
        content = _read(file)
        try:
            onnx = unpacked(content)
        except CompactFileError as error:
            raise CompactFileError(f"{str(file)!r} cannot be unpacked: {error}") from error
        _write(target, onnx)
        _show(Text(f"{len(content):,} bytes became {len(onnx):,}"), f"written: {target}")
    raise typer.Exit(OK)


def of_tensors(rows: list[StoredTensor], *, before: int, after: int) -> Any:
    """Return a table of the tensors' sizes, in bytes and in bits per element, with the total."""
    from .tables import table

    made = table("tensor", "type", "coded as", "bytes", "packed", "values", "entropy", "bits")
    for row in rows:
        made.add_row(
            row.entry.name or "(no name)",
            row.entry.type,
            row.coding,
            f"{row.before:,}",
            f"{row.after:,}",
            f"{row.distinct:,}",
            f"{row.entropy:.2f}",
            f"{8 * row.after / row.entry.count:.2f}",
        )
    rest = [
        total - sum(sizes) for total, sizes in ((before, [r.before for r in rows]), (after, [r.after for r in rows]))
    ]
    made.add_row("the rest", "", "deflate", *(f"{size:,}" for size in rest), "", "", "")
    made.add_row("all", "", "", f"{before:,}", f"{after:,}", "", "", "")
    legend = "values: distinct values · entropy: least bits per value · bits: as packed"
    return Lines(made, Text(), Text(f"{after / before:.1%} of the size"), Text(legend))


def as_data(rows: list[StoredTensor], *, before: int, after: int) -> dict[str, object]:
    """Return the same for JSON."""
    tensors = [
        {
            "name": row.entry.name,
            "type": row.entry.type,
            "coding": row.coding,
            "count": row.entry.count,
            "before_bytes": row.before,
            "after_bytes": row.after,
            "distinct": row.distinct,
            "entropy_bits": row.entropy,
        }
        for row in rows
    ]
    return {"before_bytes": before, "after_bytes": after, "tensors": tensors}


def _show(table: Any, last: str) -> None:
    console = Console(soft_wrap=not sys.stdout.isatty())
    console.print(table)
    console.print(Text(last))


def _target(source: Path, out: Path | None, ending: str, *, force: bool) -> Path:
    """Return where to write.

    Raises:
        UsageError: it is the source, or it exists and may not be replaced.

    """
    from ..errors import UsageError

    target = source.with_suffix(ending) if out is None else out
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"--out must be another file than the input; got {str(target)!r}.")
    if target.exists() and not force:
        raise UsageError(f"--out must be a new file; {str(target)!r} exists. --force replaces it.")
    return target


def _read(path: Path) -> bytes:
    from ..errors import UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"The input must be a file; {str(path)!r}: {error.strerror}.") from error


def _write(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none of it."""
    from ..errors import UsageError
    from ..files import write_atomically

    try:
        path.parent.stat()  # which is not made
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"--out must be a file that can be written; {str(path)!r}: {error.strerror}.") from error
