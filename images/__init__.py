"""Where images come from: data sets, folders of files, and shapes drawn from a seed."""
