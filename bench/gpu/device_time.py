"""Times of calls on a GPU, for the scripts here."""

import statistics

import torch


def median_ms(call, rounds=9, before=None):
    """By events around each of `rounds` calls, after one that is not counted. `before` is
    called before each."""
    times = []
    for _ in range(rounds + 1):
        if before is not None:
            before()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[1:])


def graph_of(calls):
    """A CUDA graph of `calls`, each of which is called once before."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph
