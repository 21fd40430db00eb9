"""`python -m esmm_pipelines.synthetic`; see `command`."""

from esmm_pipelines.synthetic import command

if __name__ == "__main__":
    command.run()
