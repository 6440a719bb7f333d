"""What runs say to what their sweep claimed: from declared claims to verdicts. Imports analysis, common, runs and config."""
