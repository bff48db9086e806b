"""The process that runs the flow: sessions, the group, and the chores beside them."""
