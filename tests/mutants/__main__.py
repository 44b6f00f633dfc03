"""Puts known bugs into a copy of the code, one at a time, and runs the tests that must notice them.

    python -m tests.mutants [NAME ...] [--jobs=2] [--list]

NAME is a mutant of table.py or the beginning of one or of its file; none: all. The tests are first run on the code as
it is, so that a test which fails anyway is not taken for one that notices. Prints every mutant as it is tried and the
survivors at the end; the exit status is their number, at most 100.

Generators of mutants (mutmut, cosmic-ray) make thousands from syntax alone, each for the whole suite; these are the
bugs that reviewers of this field look for, each with the test that claims to catch it.
"""

import argparse
import concurrent.futures
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time

from tests.mutants.table import MUTANTS

ROOT = pathlib.Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs")
PASSED, FAILED = 0, 1  # exit statuses of pytest; others say that no test ran


def run_tests(tree, arguments):
  """(exit status, end of the output) of pytest with these arguments, in a tree."""
  files, _, expression = arguments.partition(" -k ")
  chosen = ["-k", expression] if expression else []
  command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", *files.split(), *chosen]
  done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=900, check=False)
  return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-15:])


def mutated(tree, file, old, new):
  """Writes the bug into a tree; returns the file's path and its text before."""
  path = tree / file
  text = path.read_text()
  if text.count(old) != 1:
    raise SystemExit(f"{file}: holds {old!r} {text.count(old)} times; a mutant needs it once: correct tests/mutants")
  path.write_text(text.replace(old, new))
  return path, text


def attempt(trees, mutant):
  """(outcome, seconds): 'caught', 'SURVIVED', or what went wrong."""
  _, file, old, new, arguments = mutant
  tree, start = trees.get(), time.perf_counter()
  try:
    path, text = mutated(tree, file, old, new)
    try:
      status, output = run_tests(tree, arguments)
    finally:
      path.write_text(text)
  finally:
    trees.put(tree)
  outcomes = {PASSED: "SURVIVED", FAILED: "caught"}
  return outcomes.get(status, f"NO TEST RAN (pytest: {status})\n{output}"), time.perf_counter() - start


def baseline(trees, arguments):
  """Runs tests on the code as it is; what they printed, if they do not pass."""
  tree = trees.get()
  try:
    status, output = run_tests(tree, arguments)
  finally:
    trees.put(tree)
  return "" if status == PASSED else f"{arguments}: does not pass on the code as it is (pytest: {status})\n{output}"


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("names", nargs="*", metavar="NAME")
  parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
  parser.add_argument("--list", action="store_true")
  flags = parser.parse_args()
  chosen = [m for m in MUTANTS if not flags.names or m[0].startswith(tuple(flags.names)) or m[1] in flags.names]
  if not chosen:
    raise SystemExit(f"no mutant is called {' or '.join(flags.names)}; --list shows all")
  if flags.list:
    print("\n".join(f"{name:48s}{file}" for name, file, *_ in chosen))
    return
  survivors, trees = [], queue.Queue()
  with tempfile.TemporaryDirectory(prefix="jiqa_mutants_") as folder:
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled", "PYTHONDONTWRITEBYTECODE": "1"}
    for job in range(flags.jobs):
      trees.put(pathlib.Path(shutil.copytree(ROOT, f"{folder}/{job}", ignore=LEFT_OUT)))
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
      tests = list(dict.fromkeys(arguments for *_, arguments in chosen))
      failures = [failure for failure in pool.map(lambda of: baseline(trees, of), tests) if failure]
      if failures:
        raise SystemExit("\n".join(failures))
      print(f"{len(chosen)} mutants; their tests pass on the code as it is", flush=True)
      for mutant, (outcome, seconds) in zip(chosen, pool.map(lambda m: attempt(trees, m), chosen), strict=True):
        print(f"{mutant[0]:48s}{seconds:6.1f} s  {outcome}", flush=True)
        if outcome != "caught":
          survivors.append(mutant[0])
  print(f"{len(survivors)} survivors of {len(chosen)}" + "".join(f"\n  {name}" for name in survivors))
  raise SystemExit(min(len(survivors), 100))


if __name__ == "__main__":
  main()
