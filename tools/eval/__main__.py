"""`python -m dsmap.tools.eval`."""

from dsmap.tools.eval import main

main()
