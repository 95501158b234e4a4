"""Files under another spelling of their name, which is read if only one file can be meant.

Programs on the web write ``%20`` for a space, a Mac decomposes an accented letter into two characters, and ``.JPG`` and
``.jpg`` are the same on Windows.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

# Number of names that a remark shows.
MAX_NAMED = 10


class NearNames:
    """Finds files, and remembers those that were found under another spelling.

    Examples:
        >>> NearNames().find([[Path("tests/data/treecrowns/val%2Ejson")], [Path("tests/data/treecrowns/none.json")]])
        [PosixPath('tests/data/treecrowns/val.json'), None]
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[str]]] = {}
        self._found: dict[str, str] = {}

    def find(self, wanted: Iterable[Sequence[Path]]) -> list[Path | None]:
        """Return a file for each record; None if it is missing.

        Args:
            wanted: the paths where the file of each record may be. The first one that exists counts, or else the first
                one that exists under another spelling, if no other record means that file, too.
        """
        found: list[Path | None] = []
        missing: dict[int, Sequence[Path]] = {}
        for index, paths in enumerate(wanted):
            # Path.is_file raises an error for a name that is too long.
            found.append(next((path for path in paths if os.path.isfile(path)), None))
            if found[-1] is None:
                missing[index] = paths
        taken = set(found)
        near: dict[int, tuple[Path, Path]] = {}
        for index, paths in missing.items():
            pairs = ((path, self.near(path)) for path in paths)
            found_near = next(((path, file) for path, file in pairs if file is not None and file not in taken), None)
            if found_near is not None:
                near[index] = found_near
        wanted_by = Counter(file for _, file in near.values())
        for index, (path, file) in near.items():
            if wanted_by[file] == 1:  # else nobody knows which record it belongs to
                found[index] = file
                self._found[path.name] = file.name
        return found

    def near(self, path: Path) -> Path | None:
        """Return the only file whose name differs from a path in nothing but its spelling; None without one."""
        file = self._near(path)
        return file if file is not None and os.path.isfile(file) else None

    def remarks(self, source: Path) -> tuple[str, ...]:
        """Return a line about the files that were found under another spelling; nothing without any."""
        if not self._found:
            return ()
        names = ", ".join(f"{file} for {name}" for name, file in list(self._found.items())[:MAX_NAMED])
        return (f"{source.name}: read under another spelling of the name ({len(self._found)}): {names}",)

    def _near(self, path: Path) -> Path | None:
        folder = path.parent
        if folder == path:
            return None
        if folder not in self._folders and not os.path.isdir(folder):
            near = self._near(folder)
            if near is None:
                return None
            folder = near
        names = self._names(folder).get(_key(path.name), [])
        return folder / names[0] if len(names) == 1 else None

    def _names(self, folder: Path) -> dict[str, list[str]]:
        """Return the names in a folder by their key."""
        if folder not in self._folders:
            names = self._folders[folder] = defaultdict(list)
            with suppress(OSError):  # a folder that may not be read
                for name in os.listdir(folder):
                    names[_key(name)].append(name)
        return self._folders[folder]


def _key(name: str) -> str:
    """Return what is the same for all spellings of a name."""
    with suppress(UnicodeDecodeError):  # percent signs of another meaning
        name = unquote(name, errors="strict")
    stem, dot, suffix = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{suffix.lower()}" if dot else suffix
