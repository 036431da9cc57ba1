"""Load: requests to a server as its clients would send them, and what their times show.

client      one blocking connection that adds next to nothing to what it measures
openloop    Poisson arrivals that do not wait for answers; a crowd that is always there
objective   whether so many late requests of so many keep a 99th percentile, and the highest rate that does

`tasks.smoke` and `tasks.tune` measure with the same means, so that their figures can be compared.
"""
