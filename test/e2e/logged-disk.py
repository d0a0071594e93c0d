"""A disk that writes down what it is told, as dm-log-writes does: logged-disk.py MOUNTPOINT SIZE LOG.

A FUSE file system with one file, `disk`, to be put under a loop device. LOG gets `W offset length` and the bytes for each
write, and `F` for each flush; numbers are little-endian, 8 bytes each. Reads see every write at once. Ends when it is
killed or unmounted.
"""
import ctypes
import errno
import os
import struct
import sys

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE, FSYNC = 1, 2, 3, 4, 14, 15, 16, 18, 20
FLUSH, INIT, OPENDIR, INTERRUPT, BATCH_FORGET = 25, 26, 27, 36, 42
ROOT, DISK = 1, 2
DIRECT_IO = 1
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
MAX_WRITE = 1 << 20

mountpoint, size, log_path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40755,user_id=0,group_id=0".encode()
if libc.mount(b"logged-disk", mountpoint.encode(), b"fuse.logged-disk", 0, options) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
disk = os.memfd_create("disk")
os.ftruncate(disk, size)
log = open(log_path, "wb", buffering=0)


def attr(node):
    mode, length = (0o40755, 0) if node == ROOT else (0o100600, size)
    return struct.pack("<6Q10I", node, length, (length + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, node, body):
    """The reply's body; None for no reply, an int for an error."""
    if opcode == INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 1 << 17, BIG_WRITES | MAX_PAGES, 8, 8, MAX_WRITE, 1, MAX_WRITE // 4096, *[0] * 9)
    if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
        return None
    if opcode == LOOKUP:
        return struct.pack("<4Q2I", DISK, 0, 60, 60, 0, 0) + attr(DISK) if body == b"disk\0" else errno.ENOENT
    if opcode in (GETATTR, SETATTR):
        return struct.pack("<Q2I", 60, 0, 0) + attr(node)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 0, DIRECT_IO if node == DISK else 0, 0)
    if opcode == READ:
        _, offset, length = struct.unpack_from("<2QI", body)
        return os.pread(disk, length, offset)
    if opcode == WRITE:
        _, offset, length = struct.unpack_from("<2QI", body)
        data = body[40 : 40 + length]
        os.pwrite(disk, data, offset)
        log.write(b"W" + struct.pack("<2Q", offset, length) + data)
        return struct.pack("<2I", length, 0)
    if opcode == FSYNC:
        log.write(b"F")
        return b""
    return b"" if opcode in (FLUSH, RELEASE) else errno.ENOSYS


while True:
    try:
        request = os.read(fd, MAX_WRITE + 65536)
    except OSError as error:
        if error.errno == errno.ENODEV:
            break
        continue
    _, opcode, unique, node = struct.unpack_from("<2I2Q", request)
    reply = answer(opcode, node, request[40:])
    if reply is not None:
        text = reply if isinstance(reply, bytes) else b""
        code = 0 if isinstance(reply, bytes) else -reply
        os.write(fd, struct.pack("<IiQ", 16 + len(text), code, unique) + text)
