"""What benchmarks/endurance.py does to runs, and to the files that runs leave."""
