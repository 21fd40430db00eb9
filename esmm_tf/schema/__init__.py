"""What a data set holds: columns, features and tables, and the TOML file that declares them."""
