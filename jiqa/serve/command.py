"""`jiqa serve`: loads a metric and serves it until it is told to stop."""

import functools
import importlib.util
import ipaddress
import os
import signal

from jiqa.errors import UserError

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")  # a package is called as its module, with -
FAREWELL = 30  # seconds that running requests have when the server is told to stop


def check_extra():
  """Raises a UserError that says what to install where the packages of the extra `serve` are missing."""
  missing = " ".join(name.replace("_", "-") for name in NEEDED if importlib.util.find_spec(name) is None)
  if missing:
    command = f"pip install {missing} (or the extra 'serve' of this package)"
    raise UserError(f"jiqa serve needs {missing.replace(' ', ', ')}, which is not installed: {command}")


def serve(model, weights, head, *, host, port, sizes, token=None, access_log=False):
  """Serves a metric, as of `jiqa.load`, until SIGINT or SIGTERM; requests that are being answered then are finished.

  Port 0 takes any free one; `sizes` are the arguments of `Limits.of`; for `token` see `app.Guard`. What cannot be
  served raises a UserError: a package is missing, the metric cannot be loaded or gives no scores, the port is taken.
  """
  check_extra()
  from jiqa.inference import startup
  from jiqa.serve.upload import Limits
  from jiqa.serve.worker import Worker

  limits = Limits.of(**sizes)  # before the metric is loaded, which takes seconds
  # The server takes compiled programs from where commands keep them, and adds none: it writes no file at all.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1e9")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
  startup.prepare()  # for the worker, which inherits the environment
  worker = Worker(functools.partial(make_backend, model, weights, head), limits.batch_seconds)
  run(worker, host=host, port=port, limits=limits, token=token, access_log=access_log)


def make_backend(model, weights, head):
  """A Backend around the metric of `jiqa.load`."""
  from jiqa.inference.metric import load
  from jiqa.serve.backend import Backend

  return Backend(load(model, weights, head))


def run(worker, *, host, port, limits, token=None, access_log=False):
  """Serves a `Worker`; see `serve`."""
  import uvicorn

  from jiqa.serve.app import create_app
  from jiqa.serve.protocol import Protocol

  app = create_app(worker, limits, local=is_loopback(host), token=token)
  config = uvicorn.Config(
    app, host=host, port=port, http=Protocol, ws="none", server_header=False, limit_concurrency=limits.connections,
    timeout_graceful_shutdown=FAREWELL, access_log=access_log, log_level="info" if access_log else "warning",
  )  # fmt: skip
  try:
    listening = config.bind_socket()
  except (OSError, SystemExit) as error:
    raise UserError(f"cannot listen on {host}:{port}; is the port taken? Choose another --port") from error
  listening.listen(config.backlog)  # from now on nobody is turned away
  shown = f"[{host}]" if ":" in host else host
  print(f"{worker.name}: http://{shown}:{listening.getsockname()[1]}", flush=True)
  # Uvicorn raises the signal that stopped it once more when all is done; it has then served its purpose.
  earlier = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    uvicorn.Server(config).run(sockets=[listening])
  finally:
    for number, handler in earlier.items():
      signal.signal(number, handler)


def is_loopback(host):
  """True for addresses that only this machine reaches."""
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False
