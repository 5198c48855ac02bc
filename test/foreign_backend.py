"""A backend as people wrote them for the original package: a plain class that gets times as astropy Time.

test_testing_reuse reuses the conformance cases on it, from a folder of its own.
"""

import time

from astropy.time import Time
from twisted.internet import reactor

from discosbackend.handlers import HandlerException


class ForeignBackend:
    """Nothing of it knows of discosbackend.backend."""

    def __init__(self):
        self._conf_string = "unconfigured"
        self._integration = 0
        self._filename = ""
        self.acquiring = False
        self._start_id = None
        self._stop_id = None

    def status(self):
        return time.time(), "no error", self.acquiring

    def get_configuration(self):
        return self._conf_string

    def set_configuration(self, conf_name):
        if conf_name not in ("K2000", "XB4"):
            raise HandlerException("invalid configuration")
        self._conf_string = conf_name

    def get_integration(self):
        return self._integration

    def set_integration(self, integration):
        self._integration = integration

    def get_tpi(self):
        for channel in range(2):
            yield 1.5 + channel

    def get_tp0(self):
        return [0, 0]

    def time(self):
        return (time.time(),)

    def start(self, timestamp=None):
        if timestamp is None:
            if self.acquiring:
                raise HandlerException("already acquiring")
            self._cancel()
            self.acquiring = True
            return
        delay = self._delay(timestamp, "starting time already elapsed", "cannot start at given time")
        if self._start_id is not None:
            self._start_id.cancel()
        self._start_id = reactor.callLater(delay, self._start_now)

    def stop(self, timestamp=None):
        if timestamp is None:
            if not self.acquiring and self._start_id is None:
                raise HandlerException("not acquiring")
            self._cancel()
            self.acquiring = False
            return
        delay = self._delay(timestamp, "stop time already elapsed", "cannot stop at given time")
        if self._stop_id is not None:
            self._stop_id.cancel()
        self._stop_id = reactor.callLater(delay, self._stop_now)

    def set_filename(self, filename):
        self._filename = filename

    def convert_data(self):
        if not self._filename:
            raise HandlerException("no filename selected")

    def _delay(self, timestamp, elapsed, too_far):
        delay = (timestamp - Time.now()).sec
        if delay < 0:
            raise HandlerException(elapsed)
        if delay > 7 * 86400:
            raise HandlerException(too_far)
        return delay

    def _start_now(self):
        self._start_id = None
        self.acquiring = True

    def _stop_now(self):
        self._stop_id = None
        self.acquiring = False

    def _cancel(self):
        for call in (self._start_id, self._stop_id):
            if call is not None:
                call.cancel()
        self._start_id = self._stop_id = None
