"""What computes: its processes, its memory, its speed."""
