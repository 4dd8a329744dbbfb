"""The machine: processor, memory, subprocesses."""
