"""Real-time translation of cameras: `dsmap-live`.

A thread per camera keeps the latest frame (`capture`), one thread translates it (`translation`), and the caller's
shows, records and publishes the result (`run`). There is no queue but the encoder's: late frames are dropped.
"""
