"""A backend that awaits asyncio code: two boards on TCP, each with a protocol of its own, asked at the same time.

    python examples/on_asyncio.py [port]
    cd examples && discos-backend-server --backend on_asyncio:AsyncioBackend

The class says which reactor it needs. Without boards, the simulated ones at the end of this file are started and used.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from discosbackend import Backend, BackendError, DBProtocolHandler, Ticks, run_server


class Board:
    """The client side of a connection: the board answers each line with one line."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        self.address = host, port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        # One question at a time, so that no answer is taken for another one's.
        self.lock = asyncio.Lock()

    async def ask(self, text: str) -> str:
        async with self.lock:
            try:
                async with asyncio.timeout(2.0):
                    reader, writer = self.streams = self.streams or await self.connect()
                    writer.write(text.encode("ascii") + b"\n")
                    answer = await reader.readuntil(b"\n")
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self.close()
                raise BackendError(f"board {self.name} does not answer") from None
            except asyncio.CancelledError:
                # The time limit of the command: the late answer must not be taken for the next one.
                self.close()
                raise
        return answer.decode("ascii").strip()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    def close(self) -> None:
        streams, self.streams = self.streams, None
        if streams is not None:
            streams[1].close()


class AsyncioBackend(Backend):
    """Asks two boards, one for each polarisation, and watches their temperatures in the background."""

    reactor = "asyncio"

    def __init__(self, boards: list[Board] | None = None) -> None:
        self.boards = boards or [SimulatedBoard("L", 812.5), SimulatedBoard("R", 799.25)]
        self.problem = ""

    def server_started(self) -> None:
        self.spawn(self.watch())

    async def server_stopping(self) -> None:
        for board in self.boards:
            board.close()

    async def watch(self) -> None:
        """Ask for the temperatures, until the server stops."""
        while True:
            try:
                hot = [board.name for board in self.boards if float(await board.ask("temperature?")) > 70.0]
                self.problem = f"board {' and '.join(hot)} too hot" if hot else ""
            except BackendError as problem:
                self.problem = str(problem)
            await asyncio.sleep(1.0)

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), self.problem or "ok", False

    async def get_tpi(self) -> list[float]:
        return [float(text) for text in await asyncio.gather(*(board.ask("power?") for board in self.boards))]

    async def set_integration(self, integration: int) -> None:
        await asyncio.gather(*(board.ask(f"integration {integration}") for board in self.boards))


class SimulatedBoard(Board):
    """A board that answers in this process, for this example. It starts at the first question."""

    def __init__(self, name: str, power: float) -> None:
        super().__init__(name, "127.0.0.1", 0)
        self.answers = {b"power?\n": power, b"temperature?\n": 41.5}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self.address[1]:
            server = await asyncio.start_server(self.serve, *self.address)
            self.address = server.sockets[0].getsockname()
        return await super().connect()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A backend that ends in the middle of an answer resets the connection.
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(f"{self.answers.get(line, 'done')}\n".encode("ascii"))
        writer.close()


if __name__ == "__main__":
    run_server(int(sys.argv[1]) if len(sys.argv) > 1 else 8978, DBProtocolHandler(AsyncioBackend()), "127.0.0.1")
