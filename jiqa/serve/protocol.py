"""HTTP connections that do not stay open for a request that never comes."""

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0


class Protocol(H11Protocol):
  """Uvicorn's, which has no deadline for headers: one without a new request at two looks in a row is closed."""

  def connection_made(self, transport):
    super().connection_made(transport)
    self._look(self)

  def _look(self, before):
    waiting = self.cycle is None or self.cycle.response_complete
    if waiting and self.cycle is before:
      self.transport.close()
    elif not self.transport.is_closing():
      self.loop.call_later(HEADER_SECONDS, self._look, self.cycle if waiting else self)
