"""What runs say to what their sweep claimed: from declared claims to verdicts. Imports common, runs, config and analysis."""
