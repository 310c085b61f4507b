"""Run the command line as `python -m gpu4d`, where the folder of commands is not on the path."""

from gpu4d.cli import main

if __name__ == "__main__":
    main()
