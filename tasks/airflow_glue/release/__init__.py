"""A release as Airflow tasks: prepare → shadow → approve → canary → outcome. The state is the controller's journal.

control.py    what the tasks ask of the controller, as a protocol, so that a test can be another one
steps.py      the body of each task of `release_model` and `rollback_model`
approval.py   the question to a person, where the spec asks for one
question.py   the evidence that the person sees; pure
canary.py     the operator that defers while a canary bakes
trigger.py    what watches meanwhile, on the triggerer
assets.py     a package that passed can start its release
news.py       what is told to people, in one sentence; pure
notify.py     told by whichever of Airflow's notifiers are configured
webhook.py    a notifier of our own: JSON to a URL
"""
