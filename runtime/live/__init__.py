"""A camera, translated as it comes: `dsmap-live`.

A thread per camera keeps the newest frame (`capture`), one thread translates it (`translation`), and the caller's
shows, records and hands on what comes out (`live_run`). There is no queue but the encoder's: what is late is dropped.
"""
