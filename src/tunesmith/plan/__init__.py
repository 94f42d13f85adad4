"""What a run will cost, known before its first step: parameters, memory, time, disk."""
