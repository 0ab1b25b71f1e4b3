"""Engine processes: one single-threaded host per core or device, its link and its launchers."""
