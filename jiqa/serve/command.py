"""`jiqa serve`: loads a metric and serves it until it is told to stop."""

import importlib.util
import ipaddress
import os
import signal

from jiqa.errors import UserError

NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
FAREWELL = 30  # seconds that running requests have when the server is told to stop


def check_extra():
  """Refuses to start where the packages of the extra `serve` are missing.

  Raises:
    UserError: with the command that installs them.
  """
  missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
  if missing:
    raise UserError(
      f"jiqa serve needs {', '.join(missing)}, which is not installed: pip install {' '.join(missing)} (or the extra "
      "'serve' of this package)"
    )


def serve(model, weights, head, *, host, port, sizes):
  """Serves a metric until SIGINT or SIGTERM; requests that are being answered then are finished.

  Args:
    model, weights, head: as `jiqa.load`.
    host: address to listen on.
    port: 0 to 65535; 0 takes any free one.
    sizes: dict of 'max_megabytes' (of a file), 'max_files' (of a request), 'max_megapixels' (of an image) and 'queue'
      (images that may wait).

  Raises:
    UserError: a package is missing, the metric cannot be loaded or gives no scores, the port is taken.
  """
  check_extra()
  from jiqa.inference import startup
  from jiqa.serve.limits import Limits

  limits = Limits.of(**sizes)  # before the metric is loaded, which takes seconds
  # The server takes compiled programs from where commands keep them, and adds none: it writes no file at all.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1e9")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
  startup.prepare()
  from jiqa.inference.load import load
  from jiqa.serve.backend import Backend

  backend = Backend(load(model, weights, head))
  backend.warm_up()
  run(backend, host=host, port=port, limits=limits)


def run(backend, *, host, port, limits):
  """Serves a backend; see `serve`."""
  import uvicorn

  from jiqa.serve.app import create_app

  app = create_app(backend, limits, local=is_loopback(host))
  config = uvicorn.Config(
    app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=FAREWELL
  )
  try:
    listening = config.bind_socket()
  except (OSError, SystemExit) as error:
    raise UserError(f"cannot listen on {host}:{port}; is the port taken? Choose another --port") from error
  listening.listen(config.backlog)  # from now on nobody is turned away
  port = listening.getsockname()[1]
  shown = f"[{host}]" if ":" in host else host
  print(f"{backend.name}: http://{shown}:{port}", flush=True)
  # Uvicorn raises the signal that stopped it once more when all is done; it has then served its purpose.
  earlier = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    uvicorn.Server(config).run(sockets=[listening])
  finally:
    for number, handler in earlier.items():
      signal.signal(number, handler)


def is_loopback(host):
  """True for addresses that only this machine reaches.

  Example:
    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
  """
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False
