"""`python -m esmm_pipelines.table`; see `command`."""

from esmm_pipelines.table import command

if __name__ == "__main__":
    command.run()
