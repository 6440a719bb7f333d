"""Many runs at work: a process each on this machine, or a job each on a SLURM cluster; how they stand. Imports common and runs,
and training only in the processes that train.
"""
