"""What a data set holds: columns, features and tables, and the TOML file that declares them.

A rule of a feature or a column stands with it; `toml_file` adds the file and the place to its
message.
"""
