"""BitNet b1.58 sweeps and ablations: a package for each subject, from what all share up to the commands.

In this order, each importing from those before it alone (tests/test_imports.py holds it so):

    common runs config data model evaluation training    a run, from its files to its training loop
    cli launch sweep                                     the command line; many runs, here or on a cluster
    checks planning                                      what a run computes and costs, before it starts
    analysis verdicts reporting                          what finished runs say: tables, verdicts, the report
    benchmark                                            how fast all this is

The modules beside them are the commands: `train plan status report prepare diagnose check bench`.
"""
