"""The planner: parameters, FLOPs, bytes, days and money of a run, without torch and without a device."""
