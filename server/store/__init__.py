"""What must outlive a process: owners, finals, state. One interface, three homes."""
