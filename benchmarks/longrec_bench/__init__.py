"""What training and serving cost on the machine at hand: `longrec bench`.

plan.py says what is measured; cost/ and serving/ measure it, everything in interleaved rounds
(measurement.py). Results are plain values; what was measured stands in them as "cells", one row
for each thing under one condition. analysis.py and goals.py say what they mean, tables.py prints.
"""
