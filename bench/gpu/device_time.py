"""Times of calls on a GPU, for the scripts here."""

import statistics

import torch


def median_ms(call, rounds=9):
    """By events around each of `rounds` calls, after one that is not counted."""
    call()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
