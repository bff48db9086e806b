"""The peers: other tools do the same work as tickloom, on the same log and machine and in the same run, and are judged."""
