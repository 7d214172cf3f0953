"""The released recipe as a baseline, and the clock that times it against ours. The product does not import this."""
