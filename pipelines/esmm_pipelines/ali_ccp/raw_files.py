"""Raw text files in pieces: plain, `.gz`, and members of `.tar` and `.tar.gz` archives.

A plain file is cut into pieces that can be read at once; a compressed stream is one piece. A piece
is read in blocks of whole lines, so that memory does not depend on the size of the file.
"""

import contextlib
import dataclasses
import fnmatch
import glob
import io
import itertools
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pyarrow import fs

from esmm_tf.errors import UserError

_PIECE_BYTES = 64 << 20
_BLOCK_BYTES = 4 << 20
_MAX_LINE_BYTES = 256 << 20
_ARCHIVE_BYTES = 1 << 20  # of an archive, read at once
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_GZIP = (".gz", ".tgz")
_GZIP_WINDOW = 31  # zlib's number for a gzip header and check sum
CUT_SHORT = "the compressed file is cut short or damaged here; the rows below are lost"
NO_LINE_END = "the last line has no line end: it may be cut short"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """The lines of a file that begin at bytes `start` to `end`; a compressed file has one piece.

    `number` orders the pieces of a job; `part` and `side` say what the file holds; `member` is a
    pattern for the name of the member to read, if the file is an archive.
    """

    number: int
    path: str
    part: str
    side: str
    member: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole lines of a piece, and what is wrong with the last one, if anything."""

    text: bytes
    problem: str = ""


def cut(paths: Sequence[str], *, part: str, side: str, member: str) -> list[Piece]:
    """Returns the pieces of files, numbered from 0.

    Args:
      paths: files, or patterns of local files.
      part: of the data set, such as `train`.
      side: of the rows in the files.
      member: pattern of the member's name in an archive.

    Raises:
      UserError: if a file cannot be found.
    """
    pieces: list[Piece] = []
    for path in itertools.chain.from_iterable(map(_find, paths)):
        size = _size(path)
        step = size + 1 if path.endswith((*_GZIP, *_ARCHIVES)) else _PIECE_BYTES
        for start in range(0, max(size, 1), step):
            end = min(start + step, size)
            pieces.append(
                Piece(
                    number=len(pieces),
                    path=path,
                    part=part,
                    side=side,
                    member=member,
                    start=start,
                    end=end,
                )
            )
    return pieces


def read_blocks(piece: Piece, report: Callable[[int], Any] = lambda _: None) -> Iterator[Block]:
    """Yields the lines of a piece, some MB at a time.

    Args:
      piece: what to read.
      report: is told how many bytes of the file were read since it was last called.

    Raises:
      UserError: if a line is longer than 256 MiB, or an archive has no such member.
    """
    filesystem, path = _filesystem(piece.path)
    with filesystem.open_input_file(path) as file:
        stream = _Counted(file, report)
        if not piece.path.endswith((*_GZIP, *_ARCHIVES)):
            yield from _blocks(_Lines(stream, piece.start, piece.end), piece.path)
            return
        unpacked = _Gunzip(stream) if piece.path.endswith(_GZIP) else stream
        if not piece.path.endswith(_ARCHIVES):
            yield from _blocks(unpacked, piece.path)
            return
        yield from _blocks(_member(unpacked, piece), piece.path)


def _find(pattern: str) -> list[str]:
    if "://" in pattern or not glob.has_magic(pattern):
        return [pattern]
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise UserError(f"No file matches {pattern!r}. Check the path.")
    return paths


def _filesystem(path: str) -> tuple[fs.FileSystem, str]:
    return fs.FileSystem.from_uri(path) if "://" in path else (fs.LocalFileSystem(), path)


def _size(path: str) -> int:
    filesystem, inner_path = _filesystem(path)
    info = filesystem.get_file_info(inner_path)
    if info.type != fs.FileType.File:
        raise UserError(f"{path!r} is not a file. Check the path.")
    return info.size


def _blocks(stream: Any, path: str) -> Iterator[Block]:
    """Yields the lines of a stream; the last one may lack its end."""
    rest, problem = b"", NO_LINE_END
    while True:
        try:
            chunk = stream.read(_BLOCK_BYTES)
        except (EOFError, zlib.error):
            chunk, problem = b"", CUT_SHORT
        if not chunk:
            break
        whole, end, tail = chunk.rpartition(b"\n")
        if end:
            yield Block(rest + whole + end)
            rest = tail
        else:
            rest += tail
        if len(rest) > _MAX_LINE_BYTES:
            raise UserError(f"{path!r} has a line of more than 256 MiB. It is no such log.")
    if rest or problem is CUT_SHORT:
        yield Block(rest + b"\n", problem)


def _member(stream: Any, piece: Piece) -> "_Member":
    names = []
    with contextlib.suppress(tarfile.ReadError):  # no archive, or cut short
        archive = tarfile.open(  # noqa: SIM115 - its file is closed by whoever opened it
            fileobj=_UntilError(stream), mode="r|", bufsize=_ARCHIVE_BYTES
        )
        for entry in archive:
            names.append(entry.name)
            if entry.isreg() and fnmatch.fnmatch(entry.name, piece.member):
                return _Member(archive.fileobj, entry.size)
    raise UserError(
        f"The archive {piece.path!r} has no file named {piece.member!r}. It has {names}."
    )


class _UntilError(io.RawIOBase):
    """A stream that ends where it is damaged, so that an archive is read up to there."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        if self._ended:
            return b""
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error):
            self._ended = True
            return b""


class _Member:
    """The bytes of an archive's member; after the last sound one, an error is raised."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left)) if self._left else b""
        self._left -= len(data)
        if self._left and not data:
            raise EOFError("the archive is cut short")
        return data


class _Counted(io.RawIOBase):
    """A file whose reads are reported."""

    def __init__(self, file: Any, report: Callable[[int], Any]) -> None:
        self.file = file
        self._report = report

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self._report(len(data))
        return data


class _Lines:
    """The bytes of the lines that begin at bytes `start` to `end` of a file."""

    def __init__(self, stream: _Counted, start: int, end: int) -> None:
        self._stream = stream
        begin = _line_start(stream.file, start)
        self._left = max(_line_start(stream.file, end) - begin, 0)
        stream.file.seek(begin)

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left)) if self._left else b""
        self._left -= len(data)
        return data


def _line_start(file: Any, offset: int) -> int:
    """Returns the offset of the first line that begins at `offset` or later."""
    if offset == 0:
        return 0
    file.seek(offset - 1)
    while chunk := file.read(1 << 16):
        if (line_end := chunk.find(b"\n")) >= 0:
            return file.tell() - len(chunk) + line_end + 1
    return file.tell()


class _Gunzip(io.RawIOBase):
    """A gzip file, decompressed; after its last sound byte, an error is raised."""

    def __init__(self, stream: _Counted) -> None:
        self._stream = stream
        self._gzip = zlib.decompressobj(_GZIP_WINDOW)
        self._begun = False

    def read(self, size: int = -1) -> bytes:
        """Returns some bytes, at most `size`; nothing at the end.

        Raises:
          EOFError: if the file ends in the middle.
          zlib.error: if it is damaged.
        """
        while True:
            data = self._gzip.unconsumed_tail or self._gzip.unused_data
            if self._gzip.eof:
                self._gzip, self._begun = zlib.decompressobj(_GZIP_WINDOW), False
                data = data.lstrip(b"\0")  # padding between or after members
            data = data or self._stream.read(1 << 18)
            if not data:
                if self._begun:
                    raise EOFError("the gzip file is cut short")
                return b""
            self._begun = True
            if unpacked := self._gzip.decompress(data, max(size, 1)):
                return unpacked
