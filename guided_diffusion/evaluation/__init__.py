"""What generated images are like, and whether they help. Needs requirements-eval.txt, the other rooms do not."""
