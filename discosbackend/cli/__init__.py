"""The command lines: argparse front ends, each a thin main(). Only here is logging configured."""
