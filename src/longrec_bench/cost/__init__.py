"""What computing costs: mixers, whole models, memory banks and losses, a process per cell and turn.

plan.py says what is measured; subjects.py and work.py build it and make its passes; child.py is the
process that forks one for each turn, processes.py its other end; turns.py lets cells take turns and
skips what would not fit; analysis.py, limits.py and goals.py say what the cells mean; shown.py,
plots.py and written.py tell it.
"""
