"""The commands. Each module declares one command's options and help, and prints its report.

A command's module is imported when the command is invoked, or when ``--help`` lists it. So a module imports at its top
only what is cheap, and everything else inside the function: ``run`` must set the allocator before numpy and polars are
loaded.

Exit codes: 0 done (a bounded drain ends with it at its bound, too); 1 a fault that a restart may cure, for example an
outage that outlasted ``--max-seconds``; 2 a mistake that a person must fix; 3 ``check`` or ``verify`` found something.
"""
