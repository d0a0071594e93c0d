"""A FUSE file system that mounts and then never answers: what a dead NFS server looks like. Ends when it is killed."""
import os
import sys
import ctypes

FUSE_INIT = 26
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40755,user_id=0,group_id=0".encode()
if libc.mount(b"dead", sys.argv[1].encode(), b"fuse.dead", 0, options) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
while True:
    request = os.read(fd, 1 << 20)
    opcode, unique = int.from_bytes(request[4:8], "little"), request[8:16]
    if opcode == FUSE_INIT:
        # fuse_out_header (length, error, unique), then fuse_init_out: version 7.31, and zeroes that mean defaults.
        body = (7).to_bytes(4, "little") + (31).to_bytes(4, "little") + bytes(56)
        os.write(fd, (16 + len(body)).to_bytes(4, "little") + bytes(4) + unique + body)
