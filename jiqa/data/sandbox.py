"""Files of strangers, decoded in processes of their own whose memory and processor time the kernel limits."""

import math
import os
import queue
import signal
import struct
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np

from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError

MEMORY = 2 << 30  # bytes of addresses; the largest image that is taken needs three quarters of it
SECONDS = 30  # of processor time, of one file
_IDLE = queue.SimpleQueue()  # (subprocess.Popen, Connection); as many are started as threads decode at once


def decode(data, name="image", formats=()):
  """As `decode.decode_rgb`, in another process; a file that takes more than MEMORY or SECONDS is a UserError too.

  What comes back is text or pixels, never a pickle.
  """
  process = None
  while process is None or process.poll() is not None:  # the system may have killed one that waited
    try:
      process, pipe = _IDLE.get_nowait()
    except queue.Empty:
      process, pipe = _start()
  try:
    pipe.send_bytes(",".join(formats).encode())
    pipe.send_bytes(data)
    shape, answer = struct.unpack("<II", pipe.recv_bytes()), pipe.recv_bytes()
  except (EOFError, OSError) as error:
    pipe.close()
    slow = process.wait() == -signal.SIGXCPU
    why = f"takes more than {SECONDS} s of processor time" if slow else f"ends its decoder ({process.returncode})"
    raise UserError(f"{name}: {why}") from error
  _IDLE.put((process, pipe))
  if not all(shape):
    raise UserError(f"{name}: {answer.decode()}")
  return np.frombuffer(answer, np.uint8).reshape(*shape, 3)


def _start():
  ours, theirs = Pipe()
  command = [sys.executable, "-P", "-m", "jiqa.data.sandbox", *map(str, (theirs.fileno(), MEMORY, SECONDS))]
  path = os.pathsep.join(filter(None, sys.path))
  environment = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}  # whose threads take addresses
  # In a session of its own, Ctrl-C does not reach it; it ends when the other end of the pipe is closed.
  process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
  theirs.close()
  return process, ours


def _work(pipe, memory, seconds):
  import resource  # there is none on Windows

  resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  while True:
    formats, data = pipe.recv_bytes().decode(), pipe.recv_bytes()
    limit = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    shape, answer = (0, 0), b""
    try:
      pixels = decode_rgb(data, "image", formats.split(",") if formats else None)
      shape, answer = pixels.shape[:2], pixels.ravel()
    except (UserError, MemoryError) as error:
      much = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
      text = f"takes more than {memory / 2**30:.2g} GiB of memory" if much else str(error).removeprefix("image: ")
      answer = text.encode()
    pipe.send_bytes(struct.pack("<II", *shape))
    pipe.send_bytes(answer)


if __name__ == "__main__":
  try:
    _work(Connection(int(sys.argv[1])), *map(int, sys.argv[2:]))
  except (EOFError, ConnectionError):
    pass  # nobody asks any more
