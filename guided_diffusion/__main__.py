"""python -m guided_diffusion: the command defect-gen."""

from .cli import main

main()
