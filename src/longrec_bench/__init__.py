"""What training and serving cost on the machine at hand: `longrec bench`.

Results are plain values; what was measured stands in them as "cells", one row for each thing under
one condition.
"""
