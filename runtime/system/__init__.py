"""The machine: its processors, memory and limits."""
