"""Trains and evaluates: `launch.py --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...]`.

On several hosts the same command runs on each, with --distributed, see cloud/.

Flags only; everything heavy is imported in `main`, because data-loading workers import this file again.
"""

import errno
import math
import os
import pathlib
import platform
import re
import signal
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Path of a config, with an optional :variant.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where checkpoints, metrics and results go; default runs/CONFIG[_VARIANT]."
)
MODE = flags.DEFINE_enum(
  "mode", "train", ["train", "evaluate"], "train (evaluates at the end), or evaluate the newest checkpoint again."
)
DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "This is one of several processes of a run; TPU and SLURM tell the rest themselves."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "With --distributed, elsewhere: HOST:PORT of process 0.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which one this is.", lower_bound=0)
PROFILE = flags.DEFINE_bool("profile", False, "Record a trace of a few steps in WORKDIR/profile.")


def parse_flags(argv):
  """Parses the command line; a mistake in it, or in the config, exits with status 2 and without a traceback."""
  try:
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise flags.Error(f"unexpected argument {rest[1]!r}; options are given as --name=value")
    for flag, missing in ((CONFIG, not CONFIG.value), (WORKDIR, WORKDIR.value == "")):
      if missing:
        raise flags.Error(f"--{flag.name} is missing; see python launch.py --help")
    for flag in (COORDINATOR, NUM_PROCESSES, PROCESS_ID):
      if flag.value is not None and not DISTRIBUTED.value:
        raise flags.Error(f"--{flag.name} is given without --distributed")
    CONFIG.value.keys()  # a config file that cannot be read shows here, not in main
    if WORKDIR.value is None:
      flags.FLAGS.workdir = default_workdir(config_flags.get_config_filename(flags.FLAGS["config"]))
      print(f"launch.py: no --workdir given: using {WORKDIR.value}", file=sys.stderr)
  except (flags.Error, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
    print(f"launch.py: {plain(error)}", file=sys.stderr)
    sys.exit(2)
  return rest


def default_workdir(config):
  """The workdir of a config without --workdir: "configs/NAME.py:small,loss=x" gives "runs/NAME_small_loss=x"."""
  path, _, variant = config.partition(":")
  name = pathlib.Path(path).stem + (f"_{variant}" if variant else "")
  return f"runs/{re.sub(r'[^-+=.A-Za-z0-9]', '_', name)}"


def plain(error):
  """An error's message as one would say it: ml_collections puts quotes, escapes or a whole traceback around its own."""
  message = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
  if "Traceback" in message:
    message = message.strip().splitlines()[-1].partition(": ")[2]
  meant = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', message)
  if meant:
    return f"the config has no key {meant[2]!r}; did you mean {meant[1]!r}?"
  bare = re.fullmatch(r"""["']*(\w+)["']*""", message)
  return f"the config has no key {bare[1]!r}" if bare else message


def main(_):
  """Runs the mode; a `UserError` is printed without a traceback and exits with status 2."""
  # Orbax reports every file it touches, and what goes wrong with one also as an exception, which we report.
  logging.set_verbosity(logging.FATAL)
  # A resumed run and the evaluation find what has been compiled before; must be set before jax is imported.
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled_folder(WORKDIR.value))
  from jiqa.runtime import host_memory

  host_memory.keep_freed()

  from jiqa.errors import UserError
  from jiqa.evaluate import evaluate
  from jiqa.runtime import distributed
  from jiqa.runtime.sharding import check_devices
  from jiqa.train import train

  workdir = WORKDIR.value
  try:
    if DISTRIBUTED.value:
      distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    else:
      use_every_core(math.gcd(CONFIG.value.batch_size, CONFIG.value.get("ranked", 0)))
    check_devices()
    if CONFIG.value.method == "regress":  # heads on frozen features: nothing to train
      from jiqa.inference.regress import regress

      if DISTRIBUTED.value:
        raise UserError("method 'regress' trains nothing: run it as one process, without --distributed")
      regress(CONFIG.value, workdir)
      return
    overrides = {re.split(r"[.\[]", key)[0] for key in config_flags.get_override_values(flags.FLAGS["config"])}
    if MODE.value == "train" and not train(CONFIG.value, workdir, profile=PROFILE.value, overrides=overrides):
      print("launch.py: stopped by SIGTERM after a checkpoint; run the same command to go on", file=sys.stderr)
      sys.exit(143)
    evaluate(CONFIG.value, workdir, overrides=overrides)
  except UserError as error:
    print(f"launch.py: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print("launch.py: stopped; checkpoints and results are kept: run the same command to go on", file=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)  # so that a shell's loop ends too
  except (RuntimeError, MemoryError) as error:
    failed(error)
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    print(f"launch.py: {error}; --workdir must be a folder that can be written to", file=sys.stderr)
    sys.exit(2)
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      raise
    print(f"launch.py: no room left ({error}); make some, then run the same command to go on", file=sys.stderr)
    sys.exit(2)


def failed(error):
  """Says what to do after an error of jax and ends the process at once: an orderly end waits for others of the run."""
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    what = str(error).partition("\n")[0][:200]
    advice = "use a smaller config.batch_size, config.accumulate or config.remat"
    print(f"launch.py: out of memory ({what}); {advice}", file=sys.stderr, flush=True)
    os._exit(2)
  if not DISTRIBUTED.value:
    raise error
  traceback.print_exc()
  what = "this process, or another that it waited for, has failed"
  advice = "once the cause is gone, start all of them again to go on from the last checkpoint"
  print(f"launch.py: {what}; {advice}", file=sys.stderr, flush=True)
  os._exit(1)


def compiled_folder(workdir):
  """Where compiled programs are kept: one folder a host, since programs for CPUs fit one kind of CPU only."""
  name = f"compiled_{platform.node()}"
  return f"{workdir}/{name}" if "://" in workdir else os.fspath(pathlib.Path(workdir).resolve() / name)


def use_every_core(images):
  """Lets XLA see a CPU as one device a core, as many as share `images` evenly; GPUs and TPUs are not affected.

  XLA runs some convolutions on one thread. With the batch split over devices, every core has one of its own.
  """
  import jax

  if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jax.config.update("jax_num_cpu_devices", max(n for n in range(1, cores + 1) if images % n == 0))


if __name__ == "__main__":
  try:
    app.run(main, flags_parser=parse_flags)
  except ModuleNotFoundError as error:
    if (error.name or "jiqa").startswith("jiqa"):
      raise
    from jiqa.errors import not_installed

    print(f"launch.py: {not_installed(error.name)}", file=sys.stderr)
    sys.exit(2)
