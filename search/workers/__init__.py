"""Where trials run: in this process or on Ray, with remote meters, shared memory and a memory limit."""
