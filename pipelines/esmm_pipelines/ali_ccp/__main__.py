"""`python -m esmm_pipelines.ali_ccp`; see `command`."""

from esmm_pipelines.ali_ccp import command

if __name__ == "__main__":
    command.run()
