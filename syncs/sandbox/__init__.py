"""Stand-ins of the vendors Signalbox talks to, for the demo, for tests and for trying things out.

One process, one directory. `server.run` starts it; `server.background` starts it inside a test.
A vendor is one file in `vendors/`; what it would have done in the world is one line in the
effects file, which is also all there is to restore after a restart.
"""
