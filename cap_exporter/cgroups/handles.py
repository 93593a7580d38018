# SPDX-License-Identifier: Apache-2.0
"""File handles of cgroup directories: the kernel's own way between a cgroup's id and its directory.

A handle of kernfs is the 8 bytes of the node's id. Its type is FILEID_KERNFS since Linux 5.5 and
FILEID_INO32_GEN before (since 4.14), where the id is ``generation << 32 | inode`` and st_ino only
its low half. Sources: fs/kernfs/mount.c (v6.12, v5.4), include/linux/exportfs.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Final, NamedTuple

FILEID_INO32_GEN: Final = 0x01
FILEID_KERNFS: Final = 0xFE

#: The id of every hierarchy's root, by type of handle; a root's generation was 1 before 5.5.
ROOT_IDS: Final = {FILEID_KERNFS: 1, FILEID_INO32_GEN: 1 << 32 | 1}

#: What the calls fail with where capability, seccomp filter, kernel or file system rule them out.
NOT_PERMITTED: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP})

_AT_EMPTY_PATH: Final = 0x1000
_ID_BYTES: Final = 8
_MAX_HANDLE_BYTES: Final = 128


class _FileHandle(ctypes.Structure):
    """struct file_handle, include/linux/fs.h."""

    _fields_ = (
        ("handle_bytes", ctypes.c_uint32),
        ("handle_type", ctypes.c_int32),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE_BYTES),
    )


class Handle(NamedTuple):
    id: int
    type: int


class FileHandles:
    """name_to_handle_at(2) and open_by_handle_at(2). Both raise OSError as os functions do."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def of(self, directory: int, name: bytes = b"") -> Handle:
        """The handle of ``name`` in an open directory, or of that directory itself.

        Takes no capability. Raises OSError with EOPNOTSUPP where the file system has other handles.
        """
        handle = _FileHandle(handle_bytes=_MAX_HANDLE_BYTES)
        mount_id = ctypes.c_int()
        flags = 0 if name else _AT_EMPTY_PATH
        call = getattr(self._libc, "name_to_handle_at", None)
        if call is None:
            raise _error(errno.ENOSYS)
        if call(directory, name, ctypes.byref(handle), ctypes.byref(mount_id), flags) != 0:
            raise _error(ctypes.get_errno())
        if handle.handle_bytes != _ID_BYTES or handle.handle_type not in ROOT_IDS:
            raise _error(errno.EOPNOTSUPP)
        number = int.from_bytes(bytes(handle.f_handle[:_ID_BYTES]), sys.byteorder)
        return Handle(number, handle.handle_type)

    def open(self, mount: int, handle: Handle, flags: int) -> int:
        """Open the directory with this handle on the file system that ``mount`` is open on.

        Needs CAP_DAC_READ_SEARCH in the first user namespace (fs/fhandle.c): EPERM without it.
        ESTALE: no cgroup has this id, or none any more.
        """
        call = getattr(self._libc, "open_by_handle_at", None)
        if call is None:
            raise _error(errno.ENOSYS)
        if not 0 <= handle.id < 1 << 8 * _ID_BYTES:
            raise _error(errno.ESTALE)
        raw = _FileHandle(handle_bytes=_ID_BYTES, handle_type=handle.type)
        raw.f_handle[:_ID_BYTES] = handle.id.to_bytes(_ID_BYTES, sys.byteorder)
        descriptor = int(call(mount, ctypes.byref(raw), flags | os.O_CLOEXEC))
        if descriptor < 0:
            raise _error(ctypes.get_errno())
        return descriptor


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
