"""`python -m dsmap.tools.doctor`."""

from dsmap.tools.doctor import main

main()
