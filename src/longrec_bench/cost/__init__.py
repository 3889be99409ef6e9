"""What computing costs: mixers, whole models, memory banks and losses, a process per sample.

plan.py says what is measured; systems.py builds it and passes.py runs it; worker.py is a process
that takes one sample; sweep.py samples all tasks in rounds and skips what would not fit;
analysis.py and goals.py say what the figures mean; tables.py, plots.py and bench.py report them.
"""
