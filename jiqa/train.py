"""The training loop and the one jitted step. Knows no method by name.

Evaluation of the loop's conditions, checkpoint and stop stand before the step, so a resumed run repeats nothing: the
checkpoint of step n is the state from which step n starts, and both the data and the random numbers of step n are pure
functions of (seed, n). Several processes run this same loop, each on its rows of every batch.
"""

import contextlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jiqa.data.mixture import Subset, training_batches
from jiqa.data.source import check_name, open_database
from jiqa.data.splits import TEST, TRAIN, check_protocol, run_splits
from jiqa.errors import UserError
from jiqa.inference.loading import pinned
from jiqa.inference.predictor import Network, predict_database
from jiqa.inference.validation import Validation
from jiqa.methods import build_method
from jiqa.runtime import optimizer
from jiqa.runtime.accumulate import accumulated
from jiqa.runtime.bounds import check_bounds
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.distributed import StopNotice, barrier, on_main
from jiqa.runtime.prefetch import Prefetch
from jiqa.runtime.sharding import SHARDINGS, make_mesh, replicated, state_sharding
from jiqa.runtime.state import BLOCK
from jiqa.runtime.throughput import Throughput, Trace, count_flops
from jiqa.runtime.workdir import Workdir, claim
from jiqa.runtime.writer import Writer
from jiqa.weights.store import load_weights


class NotFinite(UserError):
  """The loss or its gradient is NaN or infinite."""


def make_step(method, tx, schedule, seed, *, shardings=None, accumulate=1, remat=False, reduce_dtype="float32"):
  """The jitted training step: (state, batch) -> (state, metrics). The state passed in is donated.

  Args:
    method, tx: see methods/base.py; an optax gradient transformation.
    schedule: function from step to learning rate, to be logged.
    seed: int.
    shardings: State of the shardings before and after a step; None leaves them to XLA. What is split over devices is
      gathered for the loss, and gradients are split again before the update.
    accumulate: number of micro-batches in a step, see runtime/accumulate.py.
    remat: keep only what blocks of the network hand on to each other, and compute the rest again for the gradient.
    reduce_dtype: of the gradients that devices sum. Parameters of two or more axes are rounded to it for the loss.
  """
  gather = split = lambda tree: tree
  if shardings is not None:
    gather = lambda tree: jax.lax.with_sharding_constraint(tree, replicated(shardings.step.mesh))
    # Summed first: asked for its part alone, XLA makes a ring of small exchanges of every product behind a gradient.
    split = lambda gradient: jax.lax.with_sharding_constraint(gather(gradient), shardings.params)
  value_and_grad = jax.value_and_grad(rematerialised(method.loss) if remat else method.loss, has_aux=True)
  if accumulate > 1:
    value_and_grad = accumulated(value_and_grad, method.merge_aux, accumulate, shardings.step.mesh)

  def step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    rounded = jax.tree.map(lambda p: p.astype(reduce_dtype) if p.ndim > 1 else p, state.params)
    gathered = gather(state.replace(opt_state=None, params=rounded))
    (loss, (stats, aux, metrics)), gradient = value_and_grad(gathered.params, gathered, batch, key)
    gradient = jax.tree.map(lambda g, p: g.astype(p.dtype), split(gradient), state.params)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    learning_rate, norm = jnp.asarray(schedule(state.step), jnp.float32), optax.tree.norm(gradient)
    metrics = {"loss": loss, "learning_rate": learning_rate, "gradient_norm": norm, **metrics}
    state = state.replace(step=state.step + 1, params=params, stats=stats, opt_state=opt_state)
    return method.post_update(state, aux), metrics

  out_shardings = None if shardings is None else (shardings, replicated(shardings.step.mesh))
  return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def rematerialised(loss):
  """A loss whose gradient keeps only what blocks of the network hand on to each other."""
  return jax.checkpoint(loss, policy=jax.checkpoint_policies.save_only_these_names(BLOCK))


def compile_step(step, state, batch):
  """(the compiled step, its model FLOPs on all devices)."""
  traced = step.trace(state, batch)
  program = traced.lower().compile()
  barrier()
  return program, count_flops(traced.jaxpr)


def open_sources(config):
  """The images of every entry of config.data that its protocol lets the run train on.

  (list of sources, list of weights, dict from database to the checksum of its labels).
  """
  sources, weights, checksums = [], [], {}
  for number, entry in enumerate(config.data):
    database = open_database(entry.name, config.data_dir or None, config.get("score", "mos"))
    positions = np.arange(len(database))
    if entry.protocol:
      splits = run_splits(config, database.table, entry.name, entry.protocol)
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


def check_evaluation(config):
  """Raises a UserError where the run could be trained, but not be evaluated at its end."""
  first, last, count = config.evaluation.get("alphas", (1, 1, 1))
  if not (0 < first <= last < math.inf and 1 <= count <= 1000):
    raise UserError(f"config.evaluation.alphas is {(first, last, count)}; expected two penalties above 0 and a number")
  which = config.evaluation.checkpoint
  if which not in ("newest", "best") or (which == "best" and not config.validate_every):
    known = "expected newest, or best with config.validate_every above 0"
    raise UserError(f"config.evaluation.checkpoint is {which!r}; {known}")
  for name in config.evaluation.databases:
    table = open_database(name, config.data_dir or None).table
    if not np.isfinite(table.mos).any():
      raise UserError(f"{name} has no scores to be evaluated by; take it out of config.evaluation.databases")
    least = (run_splits(config, table, name, config.evaluation.protocol) == TEST).sum(1).min()
    if least < 3:
      shares = f"config.evaluation.fractions is {tuple(config.evaluation.fractions)}"
      raise UserError(f"{name}: a split has {least} test image(s), at least 3 are needed; {shares}")


def init_state(config, method, tx, mesh):
  """The state before the first step: from config.init_from, if given, else fresh; the same on any number of devices."""
  weights = load_weights(pinned(config.init_from))[:2] if config.init_from else None
  state = method.init(jax.random.key(config.seed), weights)
  complete = lambda state: state.replace(opt_state=tx.init(state.params))
  return jax.jit(complete, out_shardings=state_sharding(jax.eval_shape(complete, state), mesh, config.sharding))(state)


def prefitted(config, method, state, sources):
  """The state before the first step, after `Method.prefit` where there is one; each array where it lay."""
  if not method.prefit:
    return state
  network, outputs, records = Network.of_state(method, state, method.mesh), [], []
  for source in sources:
    shown, pixels = f"{source.facts['database']}, before training", config.evaluation.pixels_per_batch
    outputs.append(predict_database(network, source.source, source.positions, shown, pixels))
    records += [row | source.facts for row in source.source.table.iloc[source.positions].to_dict("records")]
  outputs = {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
  return jax.device_put(method.prefit(state, outputs, records), jax.tree.map(lambda x: x.sharding, state))


def build(config, mesh):
  """The method of a run, when everything in the config that needs no data has been checked."""
  check_numbers(config)
  tested = [(name, config.evaluation.protocol) for name in config.evaluation.databases]
  for name, protocol in [*((entry.name, entry.protocol) for entry in config.data), *tested]:
    check_name(name)
    if protocol:
      check_protocol(name, protocol, tuple(config.evaluation.fractions))
  try:
    method = build_method(config, mesh)
    method.check_training()
    check_sharing(config, method, mesh)
  except ValueError as error:
    raise UserError(str(error)) from error
  return method


def build_optimizer(config, images):
  """(optax transformation, schedule, steps) of a run that trains on so many images."""
  steps_per_epoch = max(images // config.batch_size, 1)
  steps = config.steps or config.epochs * steps_per_epoch
  try:
    return *optimizer.build(config.optimizer, steps, steps_per_epoch), steps
  except ValueError as error:
    raise UserError(str(error)) from error


def check_numbers(config):
  """Raises a UserError for numbers, and types of numbers, with which no run can be made."""
  check_bounds(config)
  if (config.steps > 0) == (config.epochs > 0):
    raise UserError(f"config.steps is {config.steps} and config.epochs {config.epochs}: exactly one must be positive")
  for key in ("dtype", "reduce_dtype"):
    if config.get(key, "float32") not in ("float32", "bfloat16"):
      raise UserError(f"config.{key} is {config[key]!r}; expected float32 or bfloat16")
  counts = [entry.count for entry in config.data]
  if any(counts) and (min(counts) < 1 or sum(counts) != config.batch_size):
    given = f"the counts are {counts} and config.batch_size is {config.batch_size}"
    raise UserError(f"config.data: {given}; expected 1 or more of every entry, which add up to it, or 0 of all")
  for number, entry in enumerate(config.data):
    if entry.weight < 0:
      raise UserError(f"config.data[{number}].weight is {entry.weight}; expected 0 (every image counts once) or more")


def check_sharing(config, method, mesh):
  """Raises ValueError if the devices and micro-batches of this run cannot share a batch."""
  if config.accumulate > 1 and not method.accumulates:
    raise ValueError(
      f"config.accumulate is {config.accumulate}, but a step of method {config.method!r} cannot be split into "
      "micro-batches; use config.accumulate=1 and more devices, or config.remat=True to save memory"
    )
  if config.batch_size % (mesh.size * config.accumulate):
    raise ValueError(
      f"config.batch_size {config.batch_size} is not a multiple of {mesh.size} devices times config.accumulate "
      f"{config.accumulate}"
    )
  if config.accumulate > 1 and any(entry.count for entry in config.data):
    raise ValueError(
      f"config.accumulate is {config.accumulate}, but config.data fixes by count what a batch holds, and a micro-batch "
      "would hold something else; use more devices, or config.remat=True to save memory"
    )
  if config.sharding not in SHARDINGS:
    raise ValueError(f"config.sharding is {config.sharding!r}; expected {' or '.join(SHARDINGS)}")


def step_of(config, method, tx, schedule, state):
  """The jitted step of a config, which leaves a state where it lies."""
  shardings = jax.tree.map(lambda x: x.sharding, state)
  return make_step(
    method, tx, schedule, config.seed, shardings=shardings, accumulate=config.accumulate, remat=config.remat,
    reduce_dtype=config.get("reduce_dtype", "float32"),
  )  # fmt: skip


def batches_from(config, sources, weights, method, start):
  """This process's rows of every batch from step `start` on."""
  counts, hosts = [entry.count for entry in config.data], jax.process_count()
  return training_batches(
    sources, weights, method.preprocess_train, batch_size=config.batch_size, seed=config.seed, start=start,
    host=jax.process_index(), hosts=hosts, threads=config.threads, buffered=2 * config.batch_size // hosts,
    counts=counts if any(counts) else None, damaged=config.get("damaged_records", 0),
  )  # fmt: skip


def defaults_of(config, overrides):
  """What keys mean in a workdir from before they existed: the values in a config (dict) that the user has not set."""
  return {key: value for key, value in config.items() if key not in overrides}


def record(log, throughput, step, metrics, log_every, checkpoints):
  """Fetches the metrics of a finished step, stops the run if they are not finite, and logs those that are due."""
  values = {name: float(value) for name, value in jax.device_get(metrics).items()}
  if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
    checkpoints.wait()
    raise NotFinite(
      f"step {step}: loss {values['loss']}, gradient norm {values['gradient_norm']}. The last good checkpoint is step "
      f"{checkpoints.latest_step()} in {checkpoints.directory}. Lower config.optimizer.learning_rate or set "
      "config.optimizer.clip_norm, in a new --workdir."
    )
  throughput.step()
  log.advance(step + 1)
  if (step + 1) % log_every == 0 or step == 0:
    log.write(step, values | throughput.read())


def train(config, workdir, devices=None, *, profile=False, overrides=()):
  """Trains a method, or goes on where an earlier process stopped, on as many processes and devices as there are now.

  Args:
    config: ConfigDict, see configs/.
    workdir: folder that all processes see, or gs://BUCKET/FOLDER; gets config.json, metrics.jsonl, checkpoints/, ...
    devices: jax devices; None: all.
    profile: record a trace of a few steps in workdir/profile.
    overrides: keys that the user has set; of others a workdir from before they existed takes the config's value.

  Returns:
    True when the last step is reached, False when SIGTERM ended the run early (a checkpoint is saved).

  A UserError for data not prepared, a config that cannot be run, a workdir in use, or a loss that is not finite.
  """
  method = build(config, make_mesh(devices))
  sources, weights, checksums = open_sources(config)
  check_evaluation(config)
  tx, schedule, steps = build_optimizer(config, sum(len(source) for source in sources))
  with Workdir(workdir) as folder, contextlib.ExitStack() as stack:
    claimed = json.loads(config.to_json_best_effort()) | {"data_sha256": checksums}
    lock = stack.enter_context(claim(folder, claimed, defaults=defaults_of(claimed, overrides)))
    checkpoints = stack.enter_context(Checkpoints(folder.remote / "checkpoints", keep=config.checkpoints_kept))
    state = init_state(config, method, tx, method.mesh)
    state = checkpoints.restore(state) or prefitted(config, method, state, sources)
    run_step, start = step_of(config, method, tx, schedule, state), int(state.step)
    validation = Validation(config, method, method.mesh, folder.remote) if config.validate_every else None
    prefetch = stack.enter_context(Prefetch(batches_from(config, sources, weights, method, start), method.mesh))
    log = stack.enter_context(Writer(folder.local, start, steps))
    stop = stack.enter_context(StopNotice())
    trace = stack.enter_context(Trace(folder.local / "profile" if profile else None, start))
    program = throughput = unread = None  # unread: metrics of the step before, read while the devices compute the next
    for step in range(start, steps + 1):
      last = stop.received(step) or step == steps
      saves = last or (step % config.checkpoint_every == 0 and step > start)
      # Also at the first step of a resumed run: the one before may have ended between checkpoint and validation.
      validates = validation and step and (step == steps or step % config.validate_every == 0)
      if unread and (saves or validates):
        record(log, throughput, *unread, config.log_every, checkpoints)
        unread = None
      if saves:
        on_main(lock.check)
        checkpoints.save(step, state)
        folder.sync()
      if validates:
        validation.evaluate(step, state, log)
      if last:
        return step == steps
      batch = next(prefetch)
      if program is None:
        program, operations = compile_step(run_step, state, batch)
        throughput = Throughput(config.batch_size, operations, method.mesh, prefetch)
      elif validates:
        throughput.skip()
      trace.before(step, state)
      with jax.transfer_guard("disallow"):  # nothing may wait for the host inside the step
        state, metrics = program(state, batch)
      if unread:
        record(log, throughput, *unread, config.log_every, checkpoints)
      unread = (step, metrics)
