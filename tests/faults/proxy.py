"""Something between a client and a server that breaks: a TCP proxy on the loopback."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Lock, Thread


class Proxy:
    """Passes on what is said to a server, until it is told otherwise. Use it as a context manager.

    Args:
        to: port of the server, on the loopback.

    Attributes:
        port: where it listens.
        left: bytes that it still passes on to the server before it cuts all connections; None for any number.
        is_up: it accepts connections; those that it does not are cut at once.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.left: int | None = None
        self.is_up = True
        self._lock = Lock()
        self._open: list[socket.socket] = []
        self._threads = [Thread(target=self._accept)]

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()

    def cut(self) -> None:
        """Break all connections."""
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listening.accept()[0]
            except OSError:
                return
            if not self.is_up:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._to))
            with self._lock:
                self._open += [client, server]
            for ends in ((client, server), (server, client)):
                self._threads.append(Thread(target=self._pass_on, args=(*ends, ends[0] is client)))
                self._threads[-1].start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_counted and self.left is not None:
                    data, self.left = data[: self.left], self.left - len(data)
                sink.sendall(data)
                if is_counted and self.left is not None and self.left <= 0:
                    self.left, self.is_up = None, False
                    self.cut()
                    return
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
