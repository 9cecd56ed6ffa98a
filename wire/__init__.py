"""What both ends of every connection agree on: messages, streams, layouts, errors, the resumable link.

Rules: Sans-I/O and pure. No asyncio, sockets, clocks, randomness or logging; only pydantic and orjson beside
the standard library. Time is always passed in.
"""
