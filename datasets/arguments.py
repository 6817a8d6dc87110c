"""Command line arguments that the makers of datasets share."""

import argparse
import pathlib


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected at least 1")
    return value


def maker_parser(doc, first, **first_options):
    """Of a module with this docstring: the argument `first`, then size and output."""
    parser = argparse.ArgumentParser(description=doc.split("\n", maxsplit=1)[0])
    parser.add_argument(first, **first_options)
    parser.add_argument("n", type=positive, help="base vectors")
    parser.add_argument("dim", type=positive)
    parser.add_argument("output", type=pathlib.Path, help="folder, made if missing")
    parser.add_argument("--queries", type=positive, default=1000)
    parser.add_argument("--k", type=positive, default=100, help="neighbours per query")
    parser.add_argument("--seed", type=int, default=2026)
    return parser
