"""What every command stands on: devices, flags, output files, logs, locks, signals."""
