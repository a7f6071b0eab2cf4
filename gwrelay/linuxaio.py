"""fdatasync that the kernel does by itself: Linux's asynchronous I/O (io_setup(2), io_submit(2)).

Since Linux 4.18 it takes IOCB_CMD_FDSYNC: the sync runs on a thread of the kernel's, and an
eventfd says that it has ended.  glibc wraps none of these calls, so they are made by number.
"""

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple


class _Numbers(NamedTuple):
    """Of the system calls."""

    setup: int
    submit: int
    get_events: int


#: By what the kernel calls the machine: asm/unistd_64.h and asm-generic/unistd.h.
_GENERIC = _Numbers(0, 2, 4)
_NUMBERS = {
    "x86_64": _Numbers(206, 209, 208),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
}

_FDSYNC, _TELLS_BY_EVENTFD = 3, 1
#: struct iocb of linux/aio_abi.h: data, key and rw_flags, opcode, priority, descriptor, buffer,
#: bytes, offset, reserved, flags, eventfd.
_IOCB = struct.Struct("=QQHhIQQqQII")
#: struct io_event: data, the iocb, result, second result.
_EVENT = struct.Struct("=QQqq")


class KernelSyncs:
    """Syncs under way, as many as `most`; `told_by` is readable when some have ended.

    It lives as long as the process.  Raises OSError where there is no such thing: ENOSYS on other
    kernels, EPERM in some sandboxes, EAGAIN when fs.aio-max-nr is used up.
    """

    def __init__(self, most: int) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, f"numbers of system calls of {platform.machine()}")
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        context = ctypes.c_ulong(0)
        self._demand(numbers.setup, ctypes.c_uint(most), ctypes.byref(context))
        self.told_by = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Made once: a call costs 2 microseconds, to make its arguments as much again.
        self._iocb = ctypes.create_string_buffer(_IOCB.size)
        self._iocbs = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._events = ctypes.create_string_buffer(most * _EVENT.size)
        one = ctypes.c_long(1)
        self._submitting = (ctypes.c_long(numbers.submit), context, one, self._iocbs)
        # At least none, so that it never waits.
        self._getting = (
            ctypes.c_long(numbers.get_events), context, ctypes.c_long(0), ctypes.c_long(most),
            self._events, None,
        )  # fmt: skip

    def begin(self, number: int, descriptor: int) -> None:
        """Begin the fdatasync of `descriptor`, which `number` stands for.

        Raises OSError: EAGAIN when as many are under way as there may be, EINVAL when the kernel
        is older than 4.18 or the file cannot be synced.  What the disk says comes by ended().
        """
        _IOCB.pack_into(
            self._iocb, 0,
            number, 0, _FDSYNC, 0, descriptor, 0, 0, 0, 0, _TELLS_BY_EVENTFD, self.told_by,
        )  # fmt: skip
        self._demand(*self._submitting)

    def ended(self) -> list[tuple[int, int]]:
        """→ each that has ended: its number, and 0 or the error number of the disk.

        Once for each time that `told_by` is readable.  May be none: who ends while this one looks
        is told of at once, and by `told_by` again."""
        os.eventfd_read(self.told_by)
        count = self._demand(*self._getting)
        events = _EVENT.iter_unpack(memoryview(self._events)[: count * _EVENT.size])
        return [(number, -result) for number, _, result, _ in events]

    def _demand(self, *call: object) -> int:
        result: int = self._call(*call)
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result
