"""Random numbers as pure functions of (seed, stream, counters): no generator, no state, independent of the order of calls.

SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) mixes the seed, the
name of the stream and any number of counters into 64 bits. It is vectorised over numpy arrays and, unlike numpy's
generators, frozen: a later numpy cannot change the order of a run.
"""

import zlib

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL2 = np.uint64(0x94D049BB133111EB)


def _mix(x: UInt64Array) -> UInt64Array:
    x = (x ^ (x >> np.uint64(30))) * _MUL1
    x = (x ^ (x >> np.uint64(27))) * _MUL2
    return x ^ (x >> np.uint64(31))


def bits(seed: int, stream: str, *counters: npt.ArrayLike) -> UInt64Array:
    """64 random bits for each element of the broadcast `counters` (non-negative integers); `stream` names the purpose."""
    with np.errstate(over="ignore"):
        key = np.array([(seed & 0xFFFFFFFF) << 32 | zlib.crc32(stream.encode())], dtype=np.uint64)
        x = _mix(key + _GOLDEN)
        for counter in counters:
            x = _mix((x ^ np.asarray(counter).astype(np.uint64)) + _GOLDEN)
    return x if any(np.ndim(c) for c in counters) else x[0:1].reshape(())


def uniform(seed: int, stream: str, *counters: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each element of the broadcast `counters`."""
    return (bits(seed, stream, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(seed: int, stream: str, limit: npt.ArrayLike, *counters: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Uniform integers in [0, limit)."""
    scaled: npt.NDArray[np.int64] = (uniform(seed, stream, *counters) * np.asarray(limit)).astype(np.int64)
    return scaled


def permutation(seed: int, stream: str, size: int, *counters: int) -> npt.NDArray[np.int64]:
    """A random permutation of range(size): the order of `size` random words (ties, 1 in 2^64, stay in place)."""
    return np.argsort(bits(seed, stream, *counters, np.arange(size, dtype=np.uint64)), kind="stable")
