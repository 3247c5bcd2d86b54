"""Runs a program that nobody has read: isolated, limited, and gone at the end.

Process isolation on Linux, by what the system offers to the user who runs it. `running.py` is the side of the run;
everything else runs in the processes that it starts, on the standard library alone.

    the run -> launcher -> supervisor -> the program (one process for all tests, or one for each input)
                                      -> the judge of its tests, which the program cannot look into
"""
