"""Slipway's stages as Airflow tasks. With dags/ and plugins/ the only code that imports Airflow.

form.py       what a person fills in to start a run
evidence.py   contracts through XCom, typed on both sides
narrate.py    what a stage found, as lines of a task's log; imports no Airflow
stages.py     the body of each task of `package_model`: evidence in, `tasks.pipeline` called, evidence out
night.py      the body of each task of `nightly_packaging`
retries.py    what is worth a second try
links.py      from a task to its record in MLflow
"""
