"""The doctor: looks at rows, and at what a task makes of them, before anything is trained.

    rows --general/*.py, <task>.py: ROW_CHECKS--> findings --task.encode--> features --ENCODED_CHECKS--> findings

A check is a small function that gets a `Case` and yields `Finding`s. Checks for every task stand in `general/`, those of one
task in the file that is called as the task's own; adding a file is all it takes. Errors stop a run, warnings do not.
"""
