"""`python -m dsmap.tools.gpu_check`."""

from dsmap.tools.gpu_check import main

main()
