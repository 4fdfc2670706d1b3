"""The commands, one module each subject. They read arguments, make one or a few calls, and show the result."""
