"""The settings that serve a log best, searched for by real trainings: `longrec tune`."""
