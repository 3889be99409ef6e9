"""What every room uses: errors, files and locks, array types, formats and the console."""
