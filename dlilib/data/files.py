"""Files in a folder or a zip, read with checks; every refusal names the file."""

import hashlib
import lzma
import os
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)
Files = dict[str, Callable[[], bytes]]
UTF_8 = 0x800  # the bit of a zip's entry that says how its name is stored
LARGEST = 256 * 2**20  # bytes of a file in a zip, unpacked
# as macOS adds "._a.png" and "__MACOSX", and a Synology its thumbnails in "@eaDir"
HIDDEN = re.compile(r"(^|/)(\.|(__MACOSX|@eaDir)/)")


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what is wrong with it."""


def open_files(root: Path) -> Files:
    """List every file below a folder or in a zip, but hidden ones. Nothing is unpacked.

    Returns:
        Relative path -> what reads its bytes.

    Raises:
        DataError: There is no such folder or zip, or it is not safe to read.
    """
    if root.is_dir():
        readers = _in_folder(root)
    elif root.exists():
        readers = _in_zip(root)
    else:
        raise DataError(f"{root}: no such folder or zip")
    files: Files = {}
    for name, read in readers.items():
        called = composed(name)
        if called in files:
            raise DataError(
                f"{root}: {called!r} is there twice, with its accents stored in two ways"
            )
        if not HIDDEN.search(name):
            files[called] = _checked(read, name)
    return files


def _in_folder(root: Path) -> Files:
    top = root.resolve()
    paths: list[Path] = []
    todo = [(root, (top,))]  # folders, each with where it really lies and those above it
    while todo:
        folder, above = todo.pop()
        for path in folder.iterdir():
            real = Path(os.path.realpath(path))  # Path.resolve raises on a loop
            if path.is_symlink() and not real.is_relative_to(top):
                raise DataError(
                    f"{path}: a link that leaves {root}, or leads nowhere: put the files there "
                    "themselves, or give the folder that they lie in"
                )
            if not path.is_dir():
                paths.append(path)
            elif real not in above:  # a link may lead round in circles
                todo.append((path, (*above, real)))
    return {path.relative_to(root).as_posix(): path.read_bytes for path in sorted(paths)}


def _in_zip(root: Path) -> Files:
    try:
        archive = zipfile.ZipFile(root)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        if root.suffix.lower() != ".zip":
            raise DataError(f"{root}: not a readable zip, nor a folder: name its folder") from None
        raise DataError(f"{root}: not a readable zip (truncated?): {error}") from None
    readers: Files = {}
    for entry in archive.infolist():
        name = _name_of(entry)
        if name in readers:
            raise DataError(f"{root}: entry {name!r} is there twice")
        if _leaves(name):
            raise DataError(f"{root}: entry {name!r} leaves the folder")
        if entry.file_size > LARGEST:
            raise DataError(
                f"{root}: entry {name!r} unpacks to {entry.file_size} bytes, over {LARGEST}"
            )
        readers[name] = partial(archive.read, entry)
    # some programs on Windows write \\ into their zips
    paths = {name.replace("\\", "/"): read for name, read in readers.items()}
    return {path: read for path, read in paths.items() if not path.endswith("/")}


def _name_of(entry: zipfile.ZipInfo) -> str:
    """The name of a zip's entry; macOS writes UTF-8 without saying so, which reads as "├ñ"."""
    if not entry.flag_bits & UTF_8:
        with suppress(UnicodeError):
            return entry.filename.encode("cp437").decode("utf-8")
    return entry.filename


def _leaves(name: str) -> bool:
    """Whether an entry of a zip would be unpacked outside its folder."""
    drive = re.match(r"[A-Za-z]:", name)
    return PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name) or bool(drive)


def _checked(read: Callable[[], bytes], name: str) -> Callable[[], bytes]:
    def checked() -> bytes:
        try:
            return read()
        except UNREADABLE as error:
            raise DataError(f"{name}: cannot be read: {error}") from None

    return checked


def composed(text: str) -> str:
    """A text with its accents stored as names of files are here: systems and programs differ."""
    return unicodedata.normalize("NFC", text)


def read_text(files: Files, root: str | Path, name: str) -> str:
    """The UTF-8 text of one file, `composed` and without a byte order mark."""
    if name not in files:
        raise DataError(f"{root}/{name}: missing")
    try:
        return composed(files[name]().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{root}/{name}: not UTF-8 text (byte {error.start})") from None


def digest(content: bytes) -> str:
    """sha256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def digest_files(files: Files, paths: Iterable[str], **options: object) -> str:
    """sha256 over what files hold and how they are called, as `digest_of` does."""
    return digest_of({path: digest(files[path]()) for path in paths}, **options)


def digest_of(hashes: Mapping[str, str], **options: object) -> str:
    """sha256 over the sorted "folder/name sha256" lines of files, given path -> sha256.

    Where they lie above that does not matter. Options by which they are read to other pixels than
    by default count too, but not those that are None.
    """
    lines = sorted(f"{'/'.join(PurePosixPath(p).parts[-3:])} {h}" for p, h in hashes.items())
    lines += [f"{name}={value}" for name, value in options.items() if value is not None]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class WriteError(RuntimeError):
    """A file that cannot be written; the message says what to do."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> "WriteError":
        """Say that `path` cannot be written, and why."""
        return cls(
            f"{path}: cannot be written ({error.strerror or error}). What is finished is kept: "
            "make room or name another folder, then start again"
        )


def write_whole(path: Path, content: bytes, sync: bool = True) -> None:
    """Write beside the path, then rename: a reader never sees half a file.

    Args:
        path: Where the content is to lie; missing folders are made.
        content: What to write.
        sync: Wait until the content is on the disk, so that it survives the loss of power.

    Raises:
        WriteError: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise WriteError.of(path, error) from None
    finally:
        with suppress(OSError):
            part.unlink()
