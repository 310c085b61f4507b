"""Run `gpu4d bench run`: check and time workloads from counts to maps, and give the machine a score.

`workload` says what a workload is, `workloads` holds them, `data` makes their seeded inputs. `attainable` measures what the machine can
do at best. `run` carries a run out and writes every part as it comes. `result` is the file that is left, `score` reads the score from
it, `verify`, `compare` and `predict` are what is done with it. docs/how-to/benchmark.md explains each for readers.
"""
