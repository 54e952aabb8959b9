"""The card's generator, hpu/random.py@5a56187: in the emulation, the host's."""

import torch


def get_rng_state(device="hpu"):
    """Device 0 only."""
    return torch.get_rng_state()


def set_rng_state(new_state, device="hpu"):
    """Device 0 only."""
    torch.set_rng_state(new_state)


def manual_seed(seed):
    """Of the card alone; the host's is another."""


manual_seed_all = manual_seed
