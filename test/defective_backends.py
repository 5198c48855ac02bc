"""Handlers and backends with one mistake each, for defective_servers: arguments, values, times."""

from __future__ import annotations

import itertools

from discosbackend.acquisition import Acquisition
from discosbackend.backend import Backend
from discosbackend.commands import COMMANDS
from discosbackend.errors import BackendError, HandlerException
from discosbackend.grammar import INVALID, REPLY, Message
from discosbackend.handlers import REPLY_LIMIT, DBProtocolHandler
from discosbackend.ticks import Ticks

from .backend_simulator import BackendSimulator

# -- the arguments ------------------------------------------------------------------------------------


class SwallowsASurplus(DBProtocolHandler):
    def handle(self, message):
        if message.name in COMMANDS:
            del message.arguments[len(COMMANDS[message.name].arguments) :]
        return super().handle(message)


class SplitsAtEscapedCommas(DBProtocolHandler):
    def handle(self, message):
        message.arguments = ",".join(message.arguments).split(",") if message.arguments else []
        return super().handle(message)


class TakesAWrongTimeForNow(DBProtocolHandler):
    def handle(self, message):
        if message.name == "start" and message.arguments == ["soon"]:
            message.arguments = []
        return super().handle(message)


class RefusesAndStarts(DBProtocolHandler):
    def handle(self, message):
        try:
            return super().handle(message)
        except HandlerException:
            if message.name == "start" and message.arguments == ["a,b"]:
                self.backend.start()
            raise


class LowersTheFilename(BackendSimulator):
    def set_filename(self, path):
        super().set_filename(path.lower())


class RefusesStars(DBProtocolHandler):
    def handle(self, message):
        if "*" in message.arguments:
            raise HandlerException("wrong parameter format")
        return super().handle(message)


class UnknownIsInvalid(DBProtocolHandler):
    def handle(self, message):
        if message.name not in self.commands:
            return Message(message_type=REPLY, name=message.name, code=INVALID, arguments=["unknown"])
        return super().handle(message)


class LeaksTheException(DBProtocolHandler):
    def handle(self, message):
        try:
            return super().handle(message)
        except HandlerException as problem:
            if str(problem).startswith("integration time"):
                raise HandlerException("ValueError: invalid literal for int() with base 10") from None
            raise


class LooksUpNames(DBProtocolHandler):
    def handle(self, message):
        if message.name not in COMMANDS and hasattr(self.backend, message.name.replace("-", "_")):
            return Message(message_type=REPLY, name=message.name, code="ok")
        return super().handle(message)


class EscapesTheStatus(DBProtocolHandler):
    def handle(self, message):
        reply = super().handle(message)
        if message.name == "status":
            assert isinstance(reply, Message)
            reply.arguments[1] = "ok, all is well"
        return reply


class KnowsNoLimit(DBProtocolHandler):
    def __init__(self, backend):
        super().__init__(backend, reply_limit=None)


class GivesLongReasons(KnowsNoLimit):
    def handle(self, message):
        try:
            return super().handle(message)
        except HandlerException as problem:
            rest = " ".join(message.arguments)
            raise HandlerException(f"{problem} {rest}" if len(rest) > REPLY_LIMIT else str(problem)) from None


class IgnoresThePoint(DBProtocolHandler):
    def handle(self, message):
        if message.name == "start":
            message.arguments = [text.replace(".", "") for text in message.arguments]
        return super().handle(message)


class WantsSevenDecimals(DBProtocolHandler):
    def handle(self, message):
        for text in message.arguments:
            if message.name == "start" and len(text.partition(".")[2]) > 7:
                raise HandlerException(f"wrong timestamp '{text}'")
        return super().handle(message)


# -- the backend --------------------------------------------------------------------------------------


class StatusStuck(BackendSimulator):
    def status(self):
        return Ticks.now(), "ok", False


class AcquiringInWords(BackendSimulator):
    def status(self):
        return Ticks.now(), "ok", str(self.acquisition.acquiring)


class HasNoStatus(BackendSimulator):
    status = Backend.status


class StatusSwapped(BackendSimulator):
    def status(self):
        return Ticks.now(), self.acquisition.acquiring, "ok"


class StatusTooShort(BackendSimulator):
    def status(self):
        raise ValueError("no status")


class TimeInTicks(BackendSimulator):
    def time(self):
        return str(int(Ticks.now()))


class TimeOfAtoms(BackendSimulator):
    def time(self):
        return Ticks.now().unix + 37


class StatusAnHourOff(BackendSimulator):
    def status(self):
        return Ticks.now().unix + 3600, "ok", self.acquisition.acquiring


class ClockAnHourOff(BackendSimulator):
    """All of it: it reports and acts by this clock."""

    _hour = 3600 * 10**7

    def status(self):
        return self.time(), "ok", self.acquisition.acquiring

    def time(self):
        return Ticks(Ticks.now() + self._hour)

    def start(self, timestamp=None):
        super().start(None if timestamp is None else Ticks(timestamp - self._hour))

    def stop(self, timestamp=None):
        super().stop(None if timestamp is None else Ticks(timestamp - self._hour))


class StatusInWholeSeconds(BackendSimulator):
    def status(self):
        return str(int(Ticks.now().unix)), "ok", self.acquisition.acquiring


class StatusInMilliseconds(BackendSimulator):
    def status(self):
        return Ticks.now().unix * 1000, "ok", self.acquisition.acquiring


class CannotConfigure(BackendSimulator):
    def set_configuration(self, configuration):
        raise ValueError(configuration)


class CannotStart(BackendSimulator):
    def start(self, timestamp=None):
        raise RuntimeError(timestamp)


class NeverAcquires(BackendSimulator):
    def start(self, timestamp=None):
        pass


class CannotStop(BackendSimulator):
    """It ends by itself after a while, so that the next test finds it at rest."""

    def start(self, timestamp=None):
        super().start(timestamp)
        self.acquisition.stop(Ticks((timestamp or Ticks.now()) + 30_000_000))

    def stop(self, timestamp=None):
        raise BackendError("the recorder does not answer")


class KnowsNoTimes(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is not None:
            raise BackendError("wrong timestamp")
        super().start()

    def stop(self, timestamp=None):
        if timestamp is not None:
            raise BackendError("wrong timestamp")
        super().stop()


class MeasuresNothing(BackendSimulator):
    def get_tpi(self, frequency=0.0, bandwidth=0.0):
        raise RuntimeError(frequency)


class StopCancelsNothing(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is None and not self.acquisition.acquiring and self.acquisition.pending_start:
            return
        super().stop(timestamp)


class OldestStartHolds(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is None or self.acquisition.pending_start is None:
            super().start(timestamp)


class RefusedStartDropsPending(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is not None and timestamp < Ticks.now() and self.acquisition.pending_start:
            self.acquisition.stop()
        super().start(timestamp)


class StartNowKeepsPending(BackendSimulator):
    def start(self, timestamp=None):
        pending = self.acquisition.pending_start
        super().start(timestamp)
        if timestamp is None and pending is not None:
            super().start(pending)


class StartsEarly(BackendSimulator):
    def start(self, timestamp=None):
        super().start(None if timestamp is None else Ticks(timestamp - 500_000))


class StartsAtOnce(BackendSimulator):
    def start(self, timestamp=None):
        super().start()


class StopsAtOnce(BackendSimulator):
    def stop(self, timestamp=None):
        super().stop()


class StopsNever(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is None:
            super().stop()


class TakesAnyTime(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is None or abs(timestamp - Ticks.now()) < 5 * 10**7:
            super().start(timestamp)


class StartsAgain(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is not None or not self.acquisition.acquiring:
            super().start(timestamp)


class StopsAgain(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is not None or self.acquisition.acquiring or self.acquisition.pending_start:
            super().stop(timestamp)


class TakesAnyConfiguration(BackendSimulator):
    def set_configuration(self, configuration):
        if configuration.startswith("no-such"):
            self.configuration = configuration
        else:
            super().set_configuration(configuration)


class ForgetsTheConfiguration(BackendSimulator):
    def set_configuration(self, configuration):
        super().set_configuration(configuration)
        self.configuration = "unconfigured"


class SaysTooMuch(BackendSimulator):
    def set_integration(self, integration):
        super().set_integration(integration)
        return "done"


class ForgetsIntegration(BackendSimulator):
    def set_integration(self, integration):
        pass


class WritesExponents(BackendSimulator):
    def get_tp0(self):
        return ["1.5e+06", "1.5e+06"]


class LosesAnInput(BackendSimulator):
    def get_rms(self):
        return super().get_rms()[:1]


class MeasuresTooMuch(BackendSimulator):
    def get_rms(self):
        return [123456.789] * 100


class CannotTakeTheBand(BackendSimulator):
    def get_tpi(self, frequency=0.0, bandwidth=0.0):
        if bandwidth:
            raise KeyError(bandwidth)
        return super().get_tpi()


class DividesByZero(BackendSimulator):
    def get_ddcoffset(self):
        return 1 / 0


class TakesNoStars(BackendSimulator):
    def set_section(self, *values):
        super().set_section(*(float(value) for value in values))


class SwapsSectionArguments(BackendSimulator):
    def set_section(self, section, start_frequency, bandwidth, *others):
        super().set_section(section, bandwidth, start_frequency, *others)


class MeasuresWhatIsNotEnabled(BackendSimulator):
    def get_rms(self):
        return [20.5] * self.inputs


class StatusAtLength(BackendSimulator):
    def status(self):
        return Ticks.now(), 230 * "x", self.acquisition.acquiring


class StatusInExcitement(BackendSimulator):
    def status(self):
        return Ticks.now(), "ok!", self.acquisition.acquiring


class TimeInWholeSeconds(BackendSimulator):
    def time(self):
        return str(int(Ticks.now().unix))


class TimeGoesBack(BackendSimulator):
    def __init__(self):
        super().__init__()
        # More than a slow host takes between two requests.
        self.steps = itertools.count(3.0, -1.0)

    def time(self):
        return Ticks.now().unix + next(self.steps)


class StatusOfAnotherClock(BackendSimulator):
    def status(self):
        return Ticks.now().unix + 2, "ok", self.acquisition.acquiring


# -- times --------------------------------------------------------------------------------------------


class OldestStopHolds(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is None or self.acquisition.pending_stop is None:
            super().stop(timestamp)


class LatestStartHolds(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is None or timestamp > (self.acquisition.pending_start or 0):
            super().start(timestamp)


class RefusedStopDropsPending(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is not None and timestamp < Ticks.now():
            self.acquisition.cancel()
        super().stop(timestamp)


class TimedStartDropsTimedStop(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is not None:
            self.acquisition.cancel()
        super().start(timestamp)


class TimedStopDropsTimedStart(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is not None:
            self.acquisition.cancel()
        super().stop(timestamp)


class StopKeepsTimedStart(BackendSimulator):
    def stop(self, timestamp=None):
        pending = self.acquisition.pending_start if self.acquisition.acquiring else None
        super().stop(timestamp)
        if timestamp is None and pending is not None:
            self.acquisition.start(pending)


class StopKeepsTimedStop(BackendSimulator):
    def stop(self, timestamp=None):
        pending = self.acquisition.pending_stop
        super().stop(timestamp)
        if timestamp is None and pending is not None:
            self.acquisition.stop(pending)


class FutileStopDropsTimedStop(BackendSimulator):
    def stop(self, timestamp=None):
        try:
            super().stop(timestamp)
        except BackendError:
            self.acquisition.cancel()
            raise


class ReadsTimesAsShortFloats(BackendSimulator):
    def start(self, timestamp=None):
        super().start(None if timestamp is None else Ticks(float(f"{timestamp:.6e}")))


class _DueOtherwise(BackendSimulator):
    """Something else becomes of what comes due, as its Acquisition has it."""

    Kind: type[Acquisition] = Acquisition

    def __init__(self):
        super().__init__()
        self.acquisition = self.Kind(self.begin, self.end)


class DueStartEnds(_DueOtherwise):
    class Kind(Acquisition):
        def _run_due(self, instant):
            comes_too_late = self._pending_start == instant and self._acquiring
            super()._run_due(instant)
            if comes_too_late:
                self._acquiring = False


class DueStartWaits(_DueOtherwise):
    class Kind(Acquisition):
        waiting = False

        def _run_due(self, instant):
            self.waiting = self._acquiring and self._pending_start == instant
            super()._run_due(instant)

        def stop(self, timestamp=None):
            super().stop(timestamp)
            if timestamp is None and self.waiting:
                self.waiting = False
                self.start()


class DueStopDropsTimedStart(_DueOtherwise):
    class Kind(Acquisition):
        def _run_due(self, instant):
            if self._pending_stop == instant and not self._acquiring:
                self._pending_start = None
            super()._run_due(instant)


class StartComesFirst(_DueOtherwise):
    class Kind(Acquisition):
        def _run_due(self, instant):
            if self._pending_start == self._pending_stop == instant and self._acquiring:
                self._pending_start = None
            super()._run_due(instant)


class StopAlwaysComesFirst(_DueOtherwise):
    class Kind(Acquisition):
        def _run_due(self, instant):
            if self._pending_start == self._pending_stop == instant:
                self._pending_stop = None
            super()._run_due(instant)
