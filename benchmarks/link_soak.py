"""Soak test of a Link: a device on loopback answers late, twice, in halves or never, hangs up, and refuses connections.

    python -m benchmarks.link_soak [--minutes 0.1] [--seed N]

Exit status: 0; 1 if an answer was given to another question, if a question took too long, or if memory was lost.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from benchmarks.table import quantile, time_text
from discosbackend.link import Link, LinkDown, LinkTimeout
from discosbackend.testing import HangUp, LinkSimulator, Part, Wait

__all__ = ["LinkSoak", "main"]

# All times are in seconds.
_TIMEOUT = 0.2
_ASKING = 4
# Between two outages, and how long each one lasts at most.
_BETWEEN, _OUTAGE = 3.0, 1.0
# A question may wait for those of the others, each of which may wait for a connection, and then for its answer.
_LONGEST = (_ASKING + 1) * 2 * _TIMEOUT + 0.5
# The number of memory blocks that may be kept: caches of Python fill.
_FEW_BLOCKS = 2000


class LinkSoak:
    """Asks a device that fails at random, and counts what happens.

    Parameters
    ----------
    reactor
        The reactor.
    seed
        The seed of what the device does.
    seconds
        How long to ask.
    """

    def __init__(self, reactor: Any, seed: int, seconds: float) -> None:
        self._reactor = reactor
        self._random = random.Random(seed)
        self._end = time.monotonic() + seconds
        self._device = LinkSimulator(self._behavior, reactor=reactor)
        self.counts: Counter[str] = Counter()
        self.durations: list[float] = []
        self.blocks: list[int] = []

    def _behavior(self, question: bytes) -> Any:
        answer = b"re " + question
        kinds: dict[str, tuple[int, Any]] = {
            "answered at once": (900, answer),
            "a little late": (40, [Wait(self._random.uniform(0, _TIMEOUT)), answer]),
            "too late": (10, [Wait(self._random.uniform(_TIMEOUT, 3 * _TIMEOUT)), answer]),
            "never": (5, None),
            "twice": (20, [answer, answer]),
            "in halves": (20, [Part(answer[:4]), Wait(0.01), Part(answer[4:] + b"\n")]),
            "half, then hung up": (10, [Part(answer[:4]), HangUp()]),
            "hung up": (10, HangUp()),
            "endless": (2, Part(b"x" * 1000)),
            "after another message": (20, [b"#" + question, answer]),
        }
        (kind,) = self._random.choices(list(kinds), [weight for weight, _ in kinds.values()])
        self.counts[f"device: {kind}"] += 1
        return kinds[kind][1]

    async def run(self) -> None:
        """Ask until the time is over."""
        port = self._reactor.listenTCP(0, self._device, interface="127.0.0.1")
        link = Link(
            f"tcp://127.0.0.1:{port.getHost().port}",
            timeout=_TIMEOUT,
            max_answer=200,
            unsolicited=lambda line: line.startswith(b"#"),
            reactor=self._reactor,
        )
        running = [Deferred.fromCoroutine(self._ask(link, number)) for number in range(_ASKING)]
        while time.monotonic() < self._end:
            await deferLater(self._reactor, min(_BETWEEN, max(0.0, self._end - time.monotonic())))
            self._device.questions.clear()
            gc.collect()
            self.blocks.append(sys.getallocatedblocks() - len(self.durations))
            self.counts["outages"] += 1
            self._device.refusing = True
            # The device listens on a port, which does not refuse: it closes each connection at once.
            self._device.hang_up()
            await deferLater(self._reactor, self._random.uniform(0, _OUTAGE))
            self._device.refusing = False
        for each in running:
            await each
        await link.close()
        await port.stopListening()

    async def _ask(self, link: Link, number: int) -> None:
        count = 0
        while time.monotonic() < self._end:
            count += 1
            question = b"%d.%d" % (number, count)
            began = time.monotonic()
            try:
                answer = await link.ask(question)
                self.counts["answers" if answer == b"re " + question else "answers to another question"] += 1
            except (LinkDown, LinkTimeout) as problem:
                self.counts[type(problem).__name__] += 1
            self.durations.append(time.monotonic() - began)

    def complaints(self) -> list[str]:
        """Return what was wrong, in words."""
        found = []
        if wrong := self.counts["answers to another question"]:
            found.append(f"{wrong} answers were given to another question")
        if not self.counts["answers"]:
            found.append("no question was answered")
        if max(self.durations, default=0) > _LONGEST:
            found.append(f"a question took {time_text(max(self.durations))}")
        if len(self.blocks) > 3 and (kept := self.blocks[-1] - self.blocks[len(self.blocks) // 2]) > _FEW_BLOCKS:
            found.append(f"{kept} blocks of memory were kept")
        return found

    def report(self) -> str:
        """Return the counts as lines of text."""
        lines = [f"{name:36} {count:8}" for name, count in sorted(self.counts.items())]
        lines += [
            f"{f'a question, p{100 * part:g}':36} {time_text(quantile(self.durations, part)):>8}"
            for part in (0.5, 0.99, 1.0)
        ]
        return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, reactor: Any = None) -> int:
    """Run the soak test, print the counts, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.link_soak", description="Soak test of a Link.")
    parser.add_argument("--minutes", type=float, default=0.1, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), metavar="N")
    options = parser.parse_args(arguments)
    if reactor is None:
        from twisted.internet import reactor
    print(f"seed {options.seed}")
    soak = LinkSoak(reactor, options.seed, 60 * options.minutes)
    problems: list[Any] = []

    def begin() -> None:
        done = Deferred.fromCoroutine(soak.run())
        done.addErrback(problems.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    if problems:
        problems[0].raiseException()
    print(soak.report())
    found = soak.complaints()
    print("\n".join(found) or "every answer was given to its own question")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
