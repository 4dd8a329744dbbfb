"""`python -m dsmap.tools.video`."""

from dsmap.tools.video import main

main()
