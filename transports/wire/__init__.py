"""What a served broker and its clients say to each other: frames, their contents, errors, addresses.

Both ends use these files and nothing else of each other. The protocol itself is in :mod:`transports.wire.protocol`.
"""
