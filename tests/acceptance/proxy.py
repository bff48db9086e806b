"""A TCP proxy that fails on demand: it cuts, stalls, goes deaf (half-open), or cuts in the middle of a stream."""

import contextlib
import socket
import threading
from typing import Self


class Proxy:
    """Listens on ``port`` and forwards to ``target`` on this machine. Methods may be called from any thread."""

    def __init__(self, target: int | None = None) -> None:
        self.target = target  # may be set later, before the first connection
        self.connections = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._deaf: list[_Pair] = []
        self._cut_after: int | None = None
        self._refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.resume()
        self.cut()
        for pair in self._deaf:
            pair.close()

    def cut(self) -> None:
        """Break every connection; new ones are let in."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.close()

    def cut_after(self, sent: int) -> None:
        """Break the next connection that has sent this many bytes to the target from now on."""
        self._cut_after = sent

    def stall(self) -> None:
        """Nothing moves either way, on old connections or new ones, until ``resume``; nothing is lost."""
        self._flowing.clear()

    def resume(self) -> None:
        """Move on."""
        self._flowing.set()

    def deafen(self) -> None:
        """The present connections stay open and never carry a byte again, as after a power cut; new ones work."""
        with self._lock:
            for pair in self._pairs:
                pair.deaf = True
            self._deaf += self._pairs
            self._pairs.clear()

    def refuse(self, refusing: bool) -> None:
        """Whether new connections are broken at once."""
        self._refusing = refusing

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._refusing or self.target is None:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            pair = _Pair(client, server)
            self.connections += 1
            with self._lock:
                self._pairs.add(pair)
            for source, sink, counted in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(pair, source, sink, counted), daemon=True).start()

    def _pump(self, pair: "_Pair", source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._flowing.wait()
                if pair.deaf:
                    continue
                if counted and self._spent(len(data)):
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        if not pair.deaf:
            pair.close()
            with self._lock:
                self._pairs.discard(pair)

    def _spent(self, count: int) -> bool:
        with self._lock:
            if self._cut_after is None:
                return False
            self._cut_after -= count
            if self._cut_after > 0:
                return False
            self._cut_after = None
            return True


class _Pair:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._both = (client, server)
        self.deaf = False

    def close(self) -> None:
        for end in self._both:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
