"""`python -m agent` is `dagwall`."""

from agent.cli import main

if __name__ == "__main__":
    main()
