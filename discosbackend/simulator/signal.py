"""Signal: what the simulated inputs measure. A level a configuration explains, and the receiver's noise.

The power of an input is g * Tsys * B * 10^(-att/10) + zero, with the relative noise 1/sqrt(B * tau) of the
radiometer equation. There is no sky, no noise diode and no band shape yet.
"""

from __future__ import annotations

import math
import random

__all__ = ["Signal"]

# What SARDARA counts over 1500 MHz at 7 dB, of a K band receiver of about 100 K.
_BAND_SUM = 2.5e10
_GAIN = _BAND_SUM / (100.0 * 1500.0 * 10 ** (-7.0 / 10))
_TSYS = (87.0, 116.0)

# Counts of an input that is terminated: next to nothing, since DISCOS takes the zero level as 0.
_ZERO = 1000.0
_ZERO_NOISE = 0.01

# Counts of a sampler behind an attenuator at 0 dB.
_RMS = 50.0
_RMS_NOISE = 0.01


class Signal:
    """The measurements of up to `inputs` inputs: positive, finite, new each time, the same for the same seed.

    Values have eight significant digits, so that fourteen of them fit into a reply.
    """

    def __init__(self, seed: int, inputs: int) -> None:
        self._random = random.Random(f"{seed}")
        self._tsys = [self._random.uniform(*_TSYS) for _ in range(inputs)]

    def total_power(self, number: int, *, bandwidth: float, attenuation: float, integration: float) -> float:
        """Counts of an input over `bandwidth` MHz, behind `attenuation` dB, after `integration` ms."""
        samples = bandwidth * 1e6 * integration * 1e-3
        noise = self._noise(1 / math.sqrt(max(samples, 1.0)))
        power = _GAIN * self._tsys[number] * bandwidth * 10 ** (-attenuation / 10)
        return _rounded(power * noise + _ZERO)

    def zero_level(self) -> float:
        """Counts of an input that is terminated."""
        return _rounded(_ZERO * self._noise(_ZERO_NOISE))

    def rms(self, *, attenuation: float) -> float:
        """The rms, in counts, of an input's sampler."""
        return _rounded(_RMS * 10 ** (-attenuation / 20) * self._noise(_RMS_NOISE))

    def _noise(self, relative: float) -> float:
        """A factor around 1 that is never 0 or below."""
        return self._random.lognormvariate(0.0, relative)


def _rounded(value: float) -> float:
    return float(f"{value:.8g}")
