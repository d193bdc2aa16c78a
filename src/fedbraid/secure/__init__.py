"""Masked sums: the server learns the sum of the clients' updates and no single one.

Bonawitz et al., Practical secure aggregation for privacy-preserving machine learning, CCS 2017. Clients hide their
updates under masks that cancel in the sum; secret shares let the others finish where a client is lost, without opening
its update, also if it comes late. The statistics of this package add, so the sum is all that a server needs, and the
closed forms stay exact to the rounding of fixed point: `n 2^-25` an entry for n clients.

`client.py` and `server.py` are the steps, pure functions from stage and messages to stage and messages; `masked_sum`
runs them all in one process.

What is promised: below `Session.needed` clients there is no sum; a sum covers that many clients or more; whoever sees
all messages learns nothing else, also in league with up to `2 t - n - 1` clients. A server that lies is held to this by
the clients' identities; that no two sums differ by a client is the caller's affair (see `runtimes.opened_sums`). What
is not: a client can spoil the sum with a false update, which nobody sees; the sum itself says something about its
parts, the more so the fewer they are; a lying server may publish a false sum; whoever changes messages on their way to
the server spoils the sum, so they travel over TLS like all others.
"""

from fedbraid.secure.ciphers import new_identity
from fedbraid.secure.client import advertise, confirm, mask, reveal, share
from fedbraid.secure.fixed_point import Layout
from fedbraid.secure.inprocess import masked_sum
from fedbraid.secure.server import collect_confirmations, collect_inputs, collect_keys, collect_shares, unmask
from fedbraid.secure.session import BelowThreshold, Session

__all__ = [
    "BelowThreshold",
    "Layout",
    "Session",
    "advertise",
    "collect_confirmations",
    "collect_inputs",
    "collect_keys",
    "collect_shares",
    "confirm",
    "mask",
    "masked_sum",
    "new_identity",
    "reveal",
    "share",
    "unmask",
]
