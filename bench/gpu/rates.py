"""What a multiprocessor does in a clock: matrix products and the decoding of codes.

    python3 bench/gpu/rates.py --library build/bench/gpu/libquash_gpu_rates.so

The kernels are designed by these figures: one block on one multiprocessor, 16
warps, operands in registers. A product of bits is 16 x 8 x 256, one of int8
16 x 8 x 32, one of bf16 16 x 8 x 16; a decode makes int8 of a row of 128 codes.
"""

import argparse
import ctypes


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    arguments = parser.parse_args()
    library = ctypes.CDLL(arguments.library)
    library.quash_bench_rate.restype = ctypes.c_char_p
    print("| operation of a warp | clocks | in a clock |", "|---|---|---|", sep="\n")
    for name, op, count, unit in [("product of bits", b"b", 16 * 8 * 256, "bit products"),
                                  ("product of int8", b"i", 16 * 8 * 32, "products"),
                                  ("product of bf16", b"f", 16 * 8 * 16, "products"),
                                  ("decode, 4 bits", b"4", 8 * 128, "codes"),
                                  ("decode, 3 bits", b"3", 8 * 128, "codes"),
                                  ("decode, 2 bits", b"2", 8 * 128, "codes")]:
        clocks = ctypes.c_double()
        error = library.quash_bench_rate(op, 16, ctypes.byref(clocks))
        if error:
            raise SystemExit(f"Error: {error.decode()}")
        print(f"| {name} | {clocks.value:.2f} | {count / clocks.value:,.0f} {unit} |")


if __name__ == "__main__":
    main()
