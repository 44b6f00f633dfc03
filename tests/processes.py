"""Runs of several processes on this machine, each with virtual CPU devices."""

import os
import pathlib
import socket
import subprocess
import sys

from tests import QUICK_COMPILATION

ROOT = pathlib.Path(__file__).resolve().parents[1]


def free_port():
  """A port on which nobody listens now."""
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


def start(arguments, folder, *, processes=1, devices=8, **environment):
  """Starts launch.py in every process of a run.

  Args:
    arguments: list of str, the flags but those of --distributed.
    folder: pathlib.Path; gets what the processes say, stderr_0, stderr_1, ...
    processes: how many.
    devices: virtual CPU devices of each.
    environment: further variables.

  Returns:
    list of subprocess.Popen.
  """
  folder.mkdir(parents=True, exist_ok=True)
  flags = f"--xla_force_host_platform_device_count={devices} {QUICK_COMPILATION}"
  environment = os.environ | {"XLA_FLAGS": flags} | environment
  together = [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}", "--distributed"]
  started = []
  for number in range(processes):
    more = [*together, f"--process_id={number}"] if processes > 1 else []
    with open(folder / f"stderr_{number}", "w") as errors:  # a pipe that nobody empties would stop the run
      command = [sys.executable, "launch.py", *arguments, *more]
      started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=errors, stderr=errors))
  return started


def finish(processes, folder, expected=0, timeout=300):
  """Waits for the processes, all of which must end with the status `expected`; returns what they said."""
  codes = [process.wait(timeout) for process in processes]
  said = [(folder / f"stderr_{number}").read_text() for number in range(len(processes))]
  assert codes == [expected] * len(codes), "\n".join([str(codes), *(text[-3000:] for text in said)])
  return said
