"""Images from the web: many URLs at once, within limits of time, bytes and memory, each with the state in which it ended.

May import `source`.
"""
