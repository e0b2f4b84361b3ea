"""The order of the samples in an epoch, as `fam-onnx train` has it: Fisher and Yates with ChaCha8, keyed by the seed.

An implementation apart from the program's own, for whoever wants the same batches elsewhere. numpy==2.4.6
"""
import struct

import numpy as np


def words(seed, epoch):
    """ChaCha with 8 rounds: key = seed, purpose 0 (the order), index 0; nonce = epoch; 64-bit counter."""
    key = struct.unpack("<8I", struct.pack("<QQQQ", seed, 0, 0, 0))
    head = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *key]
    tail = [epoch & 0xFFFFFFFF, epoch >> 32]
    mask = 0xFFFFFFFF
    counter = 0
    while True:
        start = [*head, counter & mask, counter >> 32, *tail]
        x = list(start)

        def quarter(a, b, c, d):
            for p, q, r, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[p] = (x[p] + x[q]) & mask
                v = x[r] ^ x[p]
                x[r] = (v << turn | v >> (32 - turn)) & mask

        for _ in range(4):
            for k in range(4):
                quarter(k, 4 + k, 8 + k, 12 + k)
            for k in range(4):
                quarter(k, 4 + (k + 1) % 4, 8 + (k + 2) % 4, 12 + (k + 3) % 4)
        yield from ((a + b) & mask for a, b in zip(x, start))
        counter += 1


def epoch_order(seed, epoch, samples):
    """The samples 0 … samples − 1 in the order of an epoch, both counted from 0."""
    stream = words(seed, epoch)

    def below(bound):
        """Lemire's method."""
        while True:
            product = (next(stream) | next(stream) << 32) * bound
            low = product & 0xFFFFFFFFFFFFFFFF
            if low >= bound or low >= (2**64 - bound) % bound:
                return product >> 64

    order = list(range(samples))
    for last in range(samples - 1, 0, -1):
        at = below(last + 1)
        order[last], order[at] = order[at], order[last]
    return np.array(order)


if __name__ == "__main__":
    # What tests/schedule.rs pins.
    assert epoch_order(0, 0, 10).tolist() == [9, 2, 3, 4, 6, 7, 0, 1, 5, 8]
    assert epoch_order(0, 1, 10).tolist() == [8, 5, 0, 6, 1, 3, 4, 2, 9, 7]
    assert epoch_order(1, 0, 10).tolist() == [1, 4, 9, 8, 0, 5, 7, 6, 2, 3]
    print("the order is the program's")
