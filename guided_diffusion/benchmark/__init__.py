"""What scripts/benchmark.py is made of: the released recipe as a baseline, the clock, the tables."""
