"""The tabs: in each file one function draws and one wires; all are drawn before any is wired."""
