"""Several processes as one program: joining it, agreeing on things, noticing that it is to end.

Everything here also works in a single process, where there is nobody to agree with.
"""

import itertools
import signal
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jiqa.errors import UserError

# A process that has not been heard of for so long has died; the others then end too, instead of waiting for ever.
SILENCE_SECONDS = 30
_LONGEST_MESSAGE = 4096
_PATIENCE_SECONDS = 6 * 3600
_meetings = itertools.count()


def join(coordinator=None, num_processes=None, process_id=None):
  """Joins the other processes of a run; must be called before jax is used.

  Args:
    coordinator: HOST:PORT at which process 0 can be reached; None on TPU and under SLURM, which say it themselves.
    num_processes: how many there are; None likewise.
    process_id: 0, ..., num_processes - 1; None likewise.

  Raises:
    UserError: if the cluster does not say what is missing, or the coordinator cannot be reached.
  """
  # Of no consequence on GPUs and TPUs, which have collectives of their own.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  given = [x is not None for x in (coordinator, num_processes, process_id)]
  if any(given) and not all(given):
    raise UserError("--coordinator, --num_processes and --process_id belong together: give all three, or none of them")
  if all(given) and not 0 <= process_id < num_processes:
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
  """Returns when all processes have come here.

  Devices that exchange something for the first time give up on each other after half a minute; so processes meet
  before that wherever one may have more to do than another: compiling, reading, fitting regressors.
  """
  if jax.process_count() > 1:
    ocp.multihost.get_barrier_sync_fn()(key=f"jiqa_{next(_meetings)}", timeout_ms=1000 * _PATIENCE_SECONDS)


def on_main(function):
  """Calls a function on the main process alone and waits for it.

  Args:
    function: function without arguments; what it returns is dropped.

  Raises:
    UserError: on every process, if it was raised on the main one.
  """
  message = ""
  if is_main():
    try:
      function()
    except UserError as error:
      message = str(error) or "failed"
  message = _from_main(message)
  if message:
    raise UserError(message)


def from_main(number):
  """A number as the main process knows it, on all processes."""
  if jax.process_count() == 1:
    return number
  barrier()
  as_bytes = np.array([number]).view(np.uint8)  # jax would round it to float32
  return float(np.asarray(multihost_utils.broadcast_one_to_all(as_bytes)).view(float)[0])


def _from_main(text):
  if jax.process_count() == 1:
    return text
  room = np.zeros(_LONGEST_MESSAGE, np.uint8)
  barrier()
  told = np.frombuffer(text.encode()[:_LONGEST_MESSAGE], np.uint8)
  room[: len(told)] = told
  return bytes(np.asarray(multihost_utils.broadcast_one_to_all(room))).rstrip(b"\0").decode(errors="ignore")


def all_gather_rows(outputs, wanted):
  """Puts rows that the processes have computed, each its share, together again.

  Args:
    outputs: dict of NumPy arrays [rows, ...]: row i of process p is number p + i * processes. Every process has as many
      rows; those beyond `wanted` are filling.
    wanted: number of rows of all processes without the filling.

  Returns:
    dict of NumPy arrays [wanted, ...], on every process.
  """
  if jax.process_count() == 1:
    return {name: rows[:wanted] for name, rows in outputs.items()}
  barrier()
  gathered = multihost_utils.process_allgather(outputs)  # [processes, rows, ...]
  return {name: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:wanted] for name, x in gathered.items()}


class StopNotice:
  """Says when to end: SIGTERM (a preemption notice, a scheduler's time limit) has arrived.

  Of several processes all end at the same step, also if only one of them was told: jax's preemption service, which
  listens to SIGTERM in their place, agrees on a step that none has passed.
  """

  def __init__(self):
    self._told = False
    # Signals can be handled in the main thread only; elsewhere (a notebook's worker) there is nothing to listen to.
    self._listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

  def __enter__(self):
    if self._listens:
      self._previous = signal.signal(signal.SIGTERM, self._receive)
    return self

  def __exit__(self, *_):
    if self._listens:
      signal.signal(signal.SIGTERM, self._previous)

  def _receive(self, *_):
    self._told = True

  def received(self, step):
    """True if the run is to end before `step`; every process must ask at every step."""
    if jax.process_count() > 1:
      self._told = self._told or multihost_utils.reached_preemption_sync_point(step)
    return self._told
