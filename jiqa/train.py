"""The training loop and the one jitted step. Knows no method by name.

Evaluation of the loop's conditions, checkpoint and stop stand before the step, so a resumed run repeats nothing: the
checkpoint of step n is the state from which step n starts, and both the data and the random numbers of step n are pure
functions of (seed, n).
"""

import json
import math
import pathlib
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jiqa.data.mixture import Subset, training_batches
from jiqa.data.source import open_database
from jiqa.data.splits import TEST, TRAIN, assign
from jiqa.errors import UserError
from jiqa.methods import build_method
from jiqa.runtime import optimizer
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.logbook import Logbook
from jiqa.runtime.sharding import make_mesh, put_batch, replicated
from jiqa.validate import Validation
from jiqa.weights.store import load_weights

# May change between the runs on one workdir: they do not change what is computed.
FREE_KEYS = ("checkpoint_every", "checkpoints_kept", "log_every", "threads", "data_dir", "evaluation")


class NotFinite(UserError):
  """The loss or its gradient is NaN or infinite."""


def make_step(method, tx, schedule, seed):
  """The jitted training step.

  Args:
    method: see methods/base.py.
    tx: optax gradient transformation.
    schedule: function from step to learning rate, to be logged.
    seed: int.

  Returns:
    function (state, batch) -> (state, metrics); the state passed in is donated. metrics are scalars, among them 'loss',
    'learning_rate', 'gradient_norm'.
  """

  def step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    value_and_grad = jax.value_and_grad(method.loss, has_aux=True)
    (loss, (stats, aux, metrics)), gradient = value_and_grad(state.params, state, batch, key)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      "loss": loss,
      "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
      "gradient_norm": optax.tree.norm(gradient),
      **metrics,
    }
    state = state.replace(step=state.step + 1, params=params, stats=stats, opt_state=opt_state)
    return method.post_update(state, aux), metrics

  return jax.jit(step, donate_argnums=0)


def splits_of(config, table, name, protocol):
  """The splits of a database as this run uses them.

  Returns:
    [k, n] int8, see `jiqa.data.splits.assign`: all splits for a run without labels (config.split is -1), whose training
    leaves out what any of them tests on; otherwise the one split of this run.

  Raises:
    UserError: if the protocol has no split of that number.
  """
  wanted = config.evaluation
  number = max(wanted.splits, config.split + 1)
  splits = assign(table, name, protocol, num_splits=number, seed=config.seed, fractions=tuple(wanted.fractions))
  if config.split >= len(splits):
    raise UserError(f"config.split is {config.split}, but protocol {protocol!r} of {name} has {len(splits)} split(s)")
  return splits if config.split < 0 else splits[config.split : config.split + 1]


def open_sources(config):
  """The training records: for every entry of config.data the images it names that its protocol lets it train on.

  Returns:
    (list of sources, list of weights, dict from database to the checksum of its labels).

  Raises:
    UserError: if a database is not prepared, or an entry leaves no image.
  """
  sources, weights, checksums = [], [], {}
  for number, entry in enumerate(config.data):
    database = open_database(entry.name, config.data_dir or None)
    positions = np.arange(len(database))
    if entry.protocol:
      splits = splits_of(config, database.table, entry.name, entry.protocol)
      positions = np.flatnonzero((splits != TEST).all(0) if config.split < 0 else splits[0] == TRAIN)
    if entry.distortion:
      positions = positions[(database.table.distortion == entry.distortion).to_numpy()[positions]]
    if not len(positions):
      raise UserError(f"{entry.name}: no image is left by protocol {entry.protocol!r}, distortion {entry.distortion!r}")
    facts = {"database": entry.name, "entry": number, "range": tuple(database.metadata["range"])}
    sources.append(Subset(database, positions, facts))
    weights.append(entry.weight or len(positions))
    checksums[entry.name] = database.metadata["labels_sha256"]
  return sources, weights, checksums


def run_length(config, images):
  """(steps, steps_per_epoch) of a config that gives either `steps` or `epochs`."""
  steps_per_epoch = max(images // config.batch_size, 1)
  if (config.steps > 0) == (config.epochs > 0):
    raise UserError(f"config.steps is {config.steps} and config.epochs {config.epochs}: exactly one must be positive")
  return config.steps or config.epochs * steps_per_epoch, steps_per_epoch


def init_state(config, method, tx, mesh):
  """The state before the first step: from config.init_from, if given, else fresh; the same on any number of devices."""
  weights = load_weights(config.init_from)[:2] if config.init_from else None
  state = method.init(jax.random.key(config.seed), mesh, weights)
  return state.replace(opt_state=jax.jit(tx.init, out_shardings=replicated(mesh))(state.params))


def build(config, mesh, images):
  """What training and evaluation share: (method, tx, schedule, steps); `images` is the number of training images."""
  steps, steps_per_epoch = run_length(config, images)
  try:
    method = build_method(config, mesh.size)
    tx, schedule = optimizer.build(config.optimizer, steps, steps_per_epoch)
  except ValueError as error:
    raise UserError(str(error)) from error
  return method, tx, schedule, steps


def check_workdir(config, workdir):
  """Refuses a workdir in which another config, or other data, has trained.

  Args:
    config: dict of plain values, as config.json holds them.
    workdir: pathlib.Path.

  Raises:
    UserError: naming every key that differs, its value then and now.
  """
  path = workdir / "config.json"
  if not path.exists():
    return
  found = json.loads(path.read_text())
  changed = sorted(key for key in {*config, *found} if config.get(key) != found.get(key) and key not in FREE_KEYS)
  if changed:
    lines = "; ".join(f"{key} was {found.get(key)!r}, is {config.get(key)!r}" for key in changed)
    raise UserError(f"{path}: this run was started with another config: {lines}. Choose another --workdir.")


def claim_workdir(config, workdir):
  """Records the config, a dict of plain values, in a new workdir; see `check_workdir`."""
  check_workdir(config, workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / "config.json"
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(config, indent=2) + "\n")
  temporary.replace(path)


class StopNotice:
  """True once SIGTERM (a preemption notice, a scheduler's time limit) has arrived."""

  def __init__(self):
    self.received = False

  def __enter__(self):
    # Signals can be handled in the main thread only; elsewhere (a notebook's worker) there is nothing to listen to.
    if threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._receive)
    return self

  def __exit__(self, *_):
    if threading.current_thread() is threading.main_thread():
      signal.signal(signal.SIGTERM, self._previous)

  def _receive(self, *_):
    self.received = True


def record(log, step, metrics, log_every, checkpoints):
  """Fetches the metrics of a finished step, stops the run if they are not finite, and logs those that are due."""
  values = {name: float(value) for name, value in metrics.items()}
  if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
    checkpoints.wait()
    raise NotFinite(
      f"step {step}: loss {values['loss']}, gradient norm {values['gradient_norm']}. The last good checkpoint is step "
      f"{checkpoints.latest_step()} in {checkpoints.directory}. Lower config.optimizer.learning_rate or set "
      "config.optimizer.clip_norm, in a new --workdir."
    )
  log.advance(step + 1)
  if (step + 1) % log_every == 0 or step == 0:
    log.write(step, values)


def train(config, workdir, devices=None):
  """Trains a method, or goes on where an earlier process stopped.

  Args:
    config: ConfigDict, see configs/.
    workdir: pathlib.Path; gets config.json, metrics.jsonl, tensorboard/ and checkpoints/.
    devices: the jax devices to use; None: all.

  Returns:
    True when the last step is reached, False when SIGTERM ended the run early (a checkpoint is saved).

  Raises:
    UserError: for a database that is not prepared, a config that cannot be run, or a loss that is not finite.
  """
  workdir = pathlib.Path(workdir)
  if jax.process_count() > 1:
    raise UserError("training on several processes is not supported yet; use the devices of one")
  mesh = make_mesh(devices)
  sources, weights, checksums = open_sources(config)
  method, tx, schedule, steps = build(config, mesh, sum(len(source) for source in sources))
  claim_workdir(json.loads(config.to_json_best_effort()) | {"data_sha256": checksums}, workdir)
  checkpoints = Checkpoints(workdir / "checkpoints", keep=config.checkpoints_kept)
  state = init_state(config, method, tx, mesh)
  state = checkpoints.restore(state) or state
  start = int(state.step)
  batches = training_batches(
    sources,
    weights,
    method.cut,
    batch_size=config.batch_size,
    seed=config.seed,
    start=start,
    threads=config.threads,
    buffered=2 * config.batch_size,
    counts=[entry.count for entry in config.data] if any(entry.count for entry in config.data) else None,
  )
  validation = Validation(config, method, mesh, splits_of, workdir) if config.validate_every else None
  run_step = make_step(method, tx, schedule, config.seed)
  unread = None  # the metrics of the step before, read while the device computes the next
  with checkpoints, Logbook(workdir, start, steps, config.batch_size) as log, StopNotice() as stop:
    for step in range(start, steps + 1):
      last = step == steps or stop.received
      saves = last or (step % config.checkpoint_every == 0 and step > start)
      # Also at the first step of a resumed run: the one before may have ended between checkpoint and validation.
      validates = validation and step and (step == steps or step % config.validate_every == 0)
      if unread and (saves or validates):
        record(log, *unread, config.log_every, checkpoints)
        unread = None
      if saves:
        checkpoints.save(step, state)
      if validates:
        validation.judge(step, state, log)
      if last:
        break
      state, metrics = run_step(state, put_batch(next(batches), mesh))
      if unread:
        record(log, *unread, config.log_every, checkpoints)
      unread = (step, metrics)
  return step == steps
