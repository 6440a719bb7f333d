"""Many runs at work: a process each on this machine, or a job each on a SLURM cluster; how they stand.

Imports common, runs and training.execute, the last only in the processes that train.
"""
