"""Samples and real images written in the layouts of other programs: what `defect-gen export` calls."""
