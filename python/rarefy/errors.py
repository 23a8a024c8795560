"""What goes wrong. Messages are one line: who complains, what was expected, what came."""


class Error(Exception):
    """The base of what follows."""


class ArgumentError(Error, ValueError):
    """An argument that can never work: a wrong shape, dtype, range or device."""


class UnsupportedError(Error, NotImplementedError):
    """Well-formed, but not something that this build, machine or kernel does."""


class CorruptError(Error, ValueError):
    """A file or a structure contradicts itself or its specification."""


class FileError(Error, OSError):
    """The operating system refused: a missing file, a full disk, no permission."""


class OutOfMemoryError(Error, MemoryError):
    """An allocation or a memory budget was exceeded."""


class InternalError(Error, RuntimeError):
    """A broken invariant of Rarefy itself: a bug."""
