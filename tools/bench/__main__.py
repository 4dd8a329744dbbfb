"""`python -m dsmap.tools.bench`."""

from dsmap.tools.bench import main

main()
