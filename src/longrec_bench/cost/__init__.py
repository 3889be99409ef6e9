"""What computing costs: mixers, whole models, memory banks and losses, a process for each turn.

plan.py says what is measured; systems.py builds it and passes.py runs it; worker.py is a process
that measures one turn; sweep.py gives all of them their turns and skips what would not fit;
analysis.py and goals.py say what the figures mean; tables.py, plots.py and bench.py report them.
"""
