"""What an operator sees of a run: in a terminal, on a page of this machine, or as JSON.

Everything is read from the run's folder, which another process is writing: `following` reads what is new in a file,
`asking` and `finishing` keep what there is to say of the log and of the finished rounds, `status` makes one picture of
it, and `screen`, `page` and `serve` show that. Nothing here imports torch, and nothing changes a run.
"""
