"""Scoring files: rows of an .npz, .csv or .parquet file through the model, answers into another, in constant memory.

files.py     extension → reader and writer; the output appears whole or not at all
check.py     rows against what clients send, with row and column named
columns.py   tensors ↔ columns of a table
npz.py  csv_file.py  parquet.py  frames.py     the forms; frames are what `slipway score` exchanges with a container
command.py   `python -m serving score INPUT OUTPUT`
"""
