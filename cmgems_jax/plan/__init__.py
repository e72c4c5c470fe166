"""What a run would be on machines that need not be there, by their own compilers."""
