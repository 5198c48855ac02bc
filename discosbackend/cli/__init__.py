"""The command-line programs. Each has a function main(). Only they configure logging."""
