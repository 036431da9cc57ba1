"""What is expected of tables, checked by Great Expectations, and its Data Docs.

    rules.py           one expectation and what it means when it is broken; a table and what is expected of it   pure
    validation.py      tables → what held, what did not, the verdict                     asks Great Expectations
    data_docs.py       results → a static site that needs no network                     rendered by Great Expectations
    evaluation.py      evaluation data → tables and their rules → `DataReport`           run by ingest
    tabulation.py      evaluation data → tables of a few columns, however wide it is     pure
    parity_table.py    what parity found → tables and their rules                        run by the parity gate

Great Expectations takes seconds to import, so only `validation` and `data_docs` do, inside their functions, once in a
stage's process. Nothing is sent anywhere, and nothing is written outside the folder that is given.
"""
