"""Several processes as one program, or a single one: joining it, agreeing on things, noticing that it is to end."""

import contextlib
import itertools
import json
import signal
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from jiqa.errors import UserError

# A process that has not been heard of for so long has died; the others then end too, instead of waiting for ever.
SILENCE_SECONDS = 30
BARRIER_SECONDS = 6 * 3600
MESSAGE_CHARACTERS, BUFFER_BYTES = 2500, 2**15  # a character takes at most 12 bytes of JSON
_barrier_numbers = itertools.count()


def initialize(coordinator=None, num_processes=None, process_id=None):
  """Joins the other processes of a run, before jax is used; a UserError if something is wrong or nobody answers.

  `coordinator` is the HOST:PORT of process 0. All arguments are None on TPU and under SLURM, which say it themselves.
  """
  # Of no consequence on GPUs and TPUs, which have collectives of their own.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  missing = [x is None for x in (coordinator, num_processes, process_id)]
  if any(missing) and not all(missing):
    raise UserError("--coordinator, --num_processes and --process_id belong together: give all three, or none of them")
  if not any(missing) and not 0 <= process_id < num_processes:
    raise UserError(f"--process_id is {process_id}; expected 0 to {num_processes - 1}, as --num_processes says")
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=SILENCE_SECONDS)
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f"--distributed: cannot join the other processes ({error}). On TPU and under SLURM nothing else is needed; "
      "elsewhere give --coordinator=HOST:PORT --num_processes=N --process_id=I, the same coordinator everywhere."
    ) from error


def is_main():
  """True in the process that writes files and speaks to the user."""
  return jax.process_index() == 0


def barrier():
  """Returns when all processes have come here; to be called after what one may take longer for than another.

  Devices that exchange something for the first time give up on each other after half a minute.
  """
  if jax.process_count() > 1:
    import orbax.checkpoint as ocp  # takes most of a second, which scoring can do without

    key = f"jiqa_{next(_barrier_numbers)}"
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=1000 * BARRIER_SECONDS)


def on_main(function):
  """Calls a function on the main process and waits for it; a UserError that it raises is raised on all processes."""
  message = ""
  if is_main():
    try:
      function()
    except UserError as error:
      message = str(error)[:MESSAGE_CHARACTERS] or "failed"
  message = from_main(message)
  if message:
    raise UserError(message)


def from_main(value):
  """A number or a short text as the main process knows it, to the last bit, on all processes."""
  if jax.process_count() == 1:
    return value
  barrier()
  encoded = json.dumps(value).encode().ljust(BUFFER_BYTES)
  return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(np.frombuffer(encoded, np.uint8))).tobytes())


def all_gather_rows(outputs, number):
  """Puts rows that the processes have computed, each its share, together again, on every process.

  `outputs` is a dict of NumPy arrays [rows, ...], as many in every process: row i of process p becomes row
  p + i * processes of `number`. What lies beyond only fills the last process's share.
  """
  if jax.process_count() == 1:
    return {name: rows[:number] for name, rows in outputs.items()}
  barrier()
  gathered = multihost_utils.process_allgather(outputs)  # [processes, rows, ...]
  return {name: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:number] for name, x in gathered.items()}


class StopNotice(contextlib.ExitStack):
  """Says when to end: SIGTERM (a preemption notice, a scheduler's time limit) has arrived.

  Several processes end at the same step, which jax's preemption service chooses, also if only one got the signal.
  """

  def __init__(self):
    super().__init__()
    self._received = False
    # Signals can be handled in the main thread only; elsewhere (a notebook's worker) there is nothing to listen to.
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
      self.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, self._receive))

  def _receive(self, *_):
    self._received = True

  def received(self, step):
    """True if the run is to end before `step`; every process must ask at every step."""
    if jax.process_count() > 1 and not self._received:
      self._received = multihost_utils.reached_preemption_sync_point(step)
    return self._received
