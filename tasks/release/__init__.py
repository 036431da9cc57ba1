"""The release stage: a package that passed takes traffic over, on evidence, or gives it back.

    package ─ attested? → shadow → 1 → 5 → 25 → 50 → 100 % → the new champion
                             └────────── any gate, any guard ──────→ the previous package, whole, by digest

contracts.py     what a release is, what is seen of it, what is decided: frozen values. Read it first
judge/           counts of both versions → a decision, by tests that may be looked at at any time (pure)
router/          who gets which share of the traffic: HAProxy's runtime socket, or an HTTPRoute's weights
arms/            the containers that serve, by package digest
sources/         where counts come from: the servers and the router themselves, or Prometheus
shadow/          recorded requests to the old and the new version, compared pairwise
controller/      the state machine: each step is written down before it is taken, so that any process can go on
champion.py      MLflow's aliases and the audit trail
"""
