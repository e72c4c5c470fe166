"""Files as people have them: how their paths are typed, what is no file, how they are packed."""

import contextlib
import csv
import glob
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from cmgems_jax.errors import InputError, note

GZIP_MAGIC = b"\x1f\x8b"
# The empty block that ends every bgzip file (SAM specification, section 4.1.2).
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BGZIP_TAIL = 1 << 20  # bytes; what stands behind the end block is shorter
GZIP_HEAD = 18  # bytes that tell bgzip from gzip
_HEAD = 4096
# How a file begins that must be unpacked or converted first: what it is, and the command.
_FOREIGN = (
    (b"BZh", "packed with bzip2", "bunzip2 -k"),
    (b"\xfd7zXZ\0", "packed with xz", "unxz -k"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unzstd"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet)", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    (b"\x1f\x9d", "packed with compress", "gzip -dk"),
    (GZIP_MAGIC, "packed twice", "gunzip -k"),
    (b"\xff\xfe", "text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
)


def expand(path: str | os.PathLike) -> str:
    """Returns a path with a leading `~` or `~user` replaced, as a shell does."""
    return os.path.expanduser(path)


def expand_list(text: str) -> list[str]:
    """Returns the paths in a list with commas.

    Blanks around commas are dropped, a name that holds a comma stands in double quotes,
    `~` is the home folder, and a pattern (`*`, `?`, `[...]`) stands for the files that match,
    by name. A text that is itself the name of a file is that one file.
    """
    if os.path.exists(expand(text)):
        return [expand(text)]
    cells = (
        cell.strip() for row in csv.reader(text.splitlines(), skipinitialspace=True) for cell in row
    )
    paths: list[str] = []
    for path in map(expand, filter(None, cells)):
        matches = [] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        paths += matches or [path]
    return paths


def listed(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """Returns paths as text; a single one counts as a list of one."""
    single = isinstance(paths, (str, os.PathLike))
    return [os.fspath(path) for path in ([paths] if single else paths)]


def check(path: str | os.PathLike, expected: str) -> None:
    """Raises `InputError` unless a path leads to a regular file.

    A pipe gives its content once and blocks whoever opens it; files are read several times.
    `expected` says what the file should be, for the message.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        hint = "; no file matches" if glob.has_magic(os.fspath(path)) else ""
        raise InputError(f"{path}: no such file{hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder; expected {expected}")
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device"
        raise InputError(
            f"{path}: is {kind}, not a regular file; expected {expected}: keep the content in a "
            "file first (COMMAND > FILE) and give that"
        )


def open_unpacked(path: str | os.PathLike) -> io.BufferedReader:
    """Returns the unpacked bytes of a plain, gzip or bgzip file.

    As with the program gzip, members that follow each other are one file, zeros behind the
    last one are nothing, and anything else behind it is passed over with a note. Reading
    raises `EOFError`, `gzip.BadGzipFile` or `zlib.error` where the gzip is cut off or damaged.
    """
    file = open(path, "rb")
    is_gzip = file.peek(2).startswith(GZIP_MAGIC)
    return io.BufferedReader(_Gunzip(path, file), 1 << 20) if is_gzip else file


def read_head(path: str | os.PathLike, expected: str) -> bytes:
    """Returns the first 4,096 unpacked bytes of a file, before any long work.

    Raises:
      InputError: no regular file, unreadable, broken gzip, cut bgzip, or packed in another way.
    """
    check(path, expected)
    with _readable(path):
        with open(path, "rb") as file:
            if is_bgzip(file.read(GZIP_HEAD)):
                _check_bgzip_end(path, file)
        with open_unpacked(path) as file:
            head = file.read(_HEAD)
    _refuse_foreign(path, head)
    return head


def read_unpacked(path: str | os.PathLike, expected: str) -> bytes:
    """Returns all unpacked bytes of a file; raises as `read_head`."""
    read_head(path, expected)
    with _readable(path), open_unpacked(path) as file:
        return file.read()


@contextlib.contextmanager
def _readable(path: str | os.PathLike) -> Iterator[None]:
    """Names a file whose gzip ends early or is damaged, or that cannot be read."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: broken gzip ({error}); the download may be incomplete, fetch it again"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _refuse_foreign(path: str | os.PathLike, head: bytes) -> None:
    """Raises `InputError` for a file that another program must unpack or convert."""
    if head[257:262] == b"ustar":
        raise InputError(f"{path}: a tar archive; unpack it first: tar -xf {path}")
    for magic, kind, command in _FOREIGN:
        if head.startswith(magic):
            to = " > NEW_FILE" if command.startswith("iconv") else ""
            verb = "convert" if to else "unpack"
            raise InputError(f"{path}: {kind}; {verb} it first: {command} {path}{to}")


def is_bgzip(head: bytes) -> bool:
    """True for the head of a bgzip block."""
    return head.startswith(GZIP_MAGIC) and head[12:14] == b"BC"


def check_seekable(path: str | os.PathLike) -> bool:
    """Returns whether a file is bgzip; raises `InputError` for gzip, which has no places."""
    with open(path, "rb") as file:
        head = file.read(GZIP_HEAD)
    if head.startswith(GZIP_MAGIC) and not is_bgzip(head):
        raise InputError(
            f"{path}: packed by gzip, in which no place can be looked up; pack it anew by bgzip: "
            f"gzip -dc {path} | bgzip > NEW.gz"
        )
    return is_bgzip(head)


def _check_bgzip_end(path: str | os.PathLike, file: BinaryIO) -> None:
    """Raises `InputError` for a bgzip file cut between two blocks, which unpacks without an error.

    Another gzip member behind the end block is a file that was put behind this one by `cat`.
    """
    file.seek(max(0, os.path.getsize(path) - _BGZIP_TAIL))
    _, end, behind = file.read().rpartition(_BGZIP_END)
    if not end or behind.lstrip(b"\0").startswith(GZIP_MAGIC):
        raise InputError(
            f"{path}: bgzip file without its end block: truncated; fetch it again, or if it is "
            "whole, pack it anew (gzip -dc FILE | bgzip)"
        )


class _Gunzip(io.RawIOBase):
    """The content of a gzip file, of all its members."""

    def __init__(self, path: str | os.PathLike, file: BinaryIO) -> None:
        """Starts at the first member."""
        self._path, self._packed = path, file
        self._file = gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        """Returns True."""
        return True

    def close(self) -> None:
        """Closes the file too."""
        self._file.close()
        self._packed.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:
        """Fills the buffer, as far as one piece goes; 0 at the end."""
        try:
            data = self._file.read1(len(buffer))
        except gzip.BadGzipFile as error:
            if not str(error).startswith("Not a gzipped file"):  # where a member would begin
                raise
            note(f"{self._path}: what stands behind the gzip data is no gzip; it is passed over")
            return 0
        buffer[: len(data)] = data
        return len(data)
