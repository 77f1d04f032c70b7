"""The errors of the native modules.

    CextError
    +-- FrameError      bytes that break a rule of their format
    +-- LimitExceeded   input larger than a bound of ``cext.limits``
    +-- WriteError      the kernel refused or cut short a write (also an ``OSError``)

Each says what broke, where, and carries the numbers as attributes. Nothing here is logged or
retried: the caller decides.
"""


class CextError(Exception):
    """Base of everything the native modules raise on purpose."""


class FrameError(CextError):
    """Bytes that break a rule: ``offset`` is where in the input, ``rule`` names the rule."""

    def __init__(self, offset: int, rule: str) -> None:
        super().__init__(offset, rule)
        self.offset = offset
        self.rule = rule

    def __str__(self) -> str:
        return f"{self.rule} (at byte {self.offset})"


class LimitExceeded(CextError):
    """Input larger than allowed: ``limit`` names the bound, ``value`` broke ``maximum``."""

    def __init__(self, limit: str, value: int, maximum: int) -> None:
        super().__init__(limit, value, maximum)
        self.limit = limit
        self.value = value
        self.maximum = maximum

    def __str__(self) -> str:
        return f"{self.limit}: {self.value} is more than {self.maximum}"


class WriteError(CextError, OSError):
    """A write or a flush failed: ``errno``, ``strerror``, and ``offset_bytes`` in the file.

    What lies at and behind the offset is unknown afterwards. After a failed flush nothing that
    was written since the last good one may be taken for durable, and a second flush proves nothing.
    """

    def __init__(self, errno: int, strerror: str, offset_bytes: int) -> None:
        OSError.__init__(self, errno, strerror)
        self.offset_bytes = offset_bytes

    def __str__(self) -> str:
        return f"[Errno {self.errno}] {self.strerror} (at file offset {self.offset_bytes})"

    def __reduce__(self) -> tuple[type["WriteError"], tuple[int, str, int]]:
        return type(self), (self.errno or 0, self.strerror or "", self.offset_bytes)
