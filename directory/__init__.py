"""The Cloud Directory: a catalogue of clouds, offers, capacity, images and links.

Promises: what a manager publishes becomes visible as one atomic change at one revision, survives
restarts and crashes, and goes stale, then vanishes, when its lease is not renewed. Queries show one
revision on all pages; a watch sends every later change in order, without gap or repeat.

Never: decides anything, calls another service, or lets a provider write another one's records. No
migration that has begun needs it.
"""

import watari.tls  # noqa: F401 - before grpc is imported anywhere
