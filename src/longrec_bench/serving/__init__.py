"""What an event and a recommendation cost: through streams of this process, and over HTTP.

plan.py says what is measured and recommenders.py makes models of random weights; users.py are who
asks, through clients.py; workspace.py holds the stores; pairs.py and breakdown.py are what is
timed; catalog.py samples all of one catalog in rounds; bench.py is the whole of it; analysis.py
and tables.py say what the figures mean.
"""
