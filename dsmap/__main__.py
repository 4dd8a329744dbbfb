"""`python -m dsmap VERB`: the same as the command `dsmap VERB`."""

from dsmap.tools.main import main

if __name__ == "__main__":
    main()
