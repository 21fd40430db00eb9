"""Settings of a comparison of methods."""

import dataclasses

from esmm_tf.config.fields import check_above, setting
from esmm_tf.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Which methods are compared, on what, how often, and how each is tuned."""

    data_dir: str = setting(
        help="data set with the splits train, validation (on which every choice is made) and test"
    )
    output_dir: str = setting(
        help="directory for runs and results; started again with it, a comparison goes on"
    )
    schema: str = setting("", help="schema file; by default schema.toml beside the records")
    methods: tuple[str, ...] = setting(
        ("base", "aman", "oversampling", "unbias", "division", "esmm_ns", "esmm"),
        help="methods to compare, comma-separated",
    )
    seeds: int = setting(5, help="models of each method, each with another seed")
    fractions: tuple[float, ...] = setting(
        (1.0,),
        help="shares of the training groups, comma-separated, each above 0 and at most 1; the "
        "paper's Figure 3 has 0.01,0.05,0.1,0.2,0.5,1",
    )
    learning_rates: tuple[float, ...] = setting(
        (0.001, 0.0003), help="step sizes of Adam among which validation chooses, for each method"
    )
    epochs: int = setting(
        20,
        help="passes over the training records, at most; those of a method that samples are short",
    )
    early_stopping_patience: int = setting(
        1, help="epochs without a lower validation loss before a run stops; the best one is kept"
    )
    processes: int = setting(1, help="runs at a time")

    def __post_init__(self) -> None:
        check_above(self, 0, "seeds", "epochs", "early_stopping_patience", "processes")
        for name in ("methods", "fractions", "learning_rates"):
            if not getattr(self, name):
                raise UserError(f"--{name} is empty. Give one or more, comma-separated.")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise UserError(f"--fractions is {self.fractions}. Give numbers above 0 and at most 1.")
