"""`python -m dsmap.tools.export`."""

from dsmap.tools.export import main

main()
