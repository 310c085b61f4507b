"""The parts of `benchmarks/on_a_gpu.py`: everything asked of a machine with a GPU that is there for minutes and may go at any moment.

`stages` is the plan and how it is carried out, `processes` and `guard` end a stage with everything it started, `records` keeps what is
known line by line. The stages: `environment`, `compiling`, `test_reports` (a pytest plugin), `kernel_rows`, `stream_rows`, `profilers`.
`summary` says on sixty lines what came out.
"""
