"""What every package needs: errors, files, numbers as text, the console, signals. Imports no other package."""
