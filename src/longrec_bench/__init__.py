"""What training and serving cost on the machine at hand: `longrec bench`."""
